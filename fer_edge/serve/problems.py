"""What a request is answered with if it is refused: status, message and fix."""

from __future__ import annotations

from fer_edge.errors import FerEdgeError, TooLargeError, UsageError
from fer_edge.printable import one_line

__all__ = ["ClientGoneError", "RequestError", "problem_from_error"]


class RequestError(Exception):
    """A request that is refused. ``fix`` is what the client can change, or None.

    ``retry_after`` is the number of seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        fix: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(one_line(message))
        self.status = status
        self.fix = None if fix is None else one_line(fix)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the answer."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    @property
    def body(self) -> dict[str, str | None]:
        """The answer, as JSON."""
        return {"error": str(self), "fix": self.fix}


class ClientGoneError(Exception):
    """The client closed the connection: nobody reads an answer."""


def problem_from_error(error: FerEdgeError) -> RequestError:
    """Return what a picture is refused with: 413 for its size, 400 if it cannot be read.

    An error that is not the client's is 500, without its text: that may name files of the server.
    """
    if isinstance(error, TooLargeError):
        return RequestError(413, str(error), fix=error.fix or "make the picture smaller")
    if isinstance(error, UsageError):
        return RequestError(400, str(error), fix=error.fix)
    return RequestError(500, "the engine failed", fix="the server's log says more")
