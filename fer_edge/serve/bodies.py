"""Read the pictures of a request into memory, and never more than the limits.

Starlette writes uploads of more than a megabyte into temporary files. Here, no byte of a picture
is written to a disk.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from fer_edge.serve.problems import ClientGoneError, RequestError
from fer_edge.serve.settings import MOST_PICTURES

__all__ = ["Budget", "Receive", "Share", "Upload", "read_pictures"]

# Its warnings about damaged forms are in our answers. Without a handler they go to stderr, where
# any client could fill the server's log.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""What gives the next part of a request, as in ASGI."""

_TYPES = "send one picture as the body (Content-Type: image/jpeg), or files as multipart/form-data"
_MOST_HEADERS, _LONGEST_HEADER = 8, 2048


@dataclass(frozen=True, slots=True)
class Upload:
    """One picture of a request; ``name`` is ``-`` where the client gave none, as for stdin."""

    name: str
    content: bytes


class Budget:
    """The bytes of all bodies that are in memory at a time; ``changed`` gets their number."""

    def __init__(self, most: int, changed: Callable[[int], None] = lambda held: None) -> None:
        self.most = most
        self.held = 0
        self._changed = changed

    def change(self, count: int) -> None:
        """Add ``count`` bytes, or remove them if it is negative."""
        self.held += count
        self._changed(self.held)

    def share(self) -> Share:
        """Return the part of one request: empty at first, given back by ``with``."""
        return Share(self)


class Share:
    """The bytes that one request holds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held = 0

    def add(self, count: int) -> None:
        """Take ``count`` bytes more; RequestError 503 if all requests together hold too many."""
        if self._budget.held + count > self._budget.most:
            raise RequestError(
                503,
                "the server has too many pictures in memory",
                fix="send the request again a little later",
                retry_after=1,
            )
        self._held += count
        self._budget.change(count)

    def __enter__(self) -> Share:
        return self

    def __exit__(self, *_: object) -> None:
        self._budget.change(-self._held)
        self._held = 0


async def read_pictures(
    receive: Receive, headers: Mapping[str, str], most: int, share: Share
) -> list[Upload]:
    """Return the pictures of a request: its body, or the files of a form, in order.

    ``most`` is the limit of the body's bytes; it is checked while reading, whatever the headers
    state. Raises RequestError: 400 for a damaged form or nothing at all, 413 for too many bytes or
    files, 415 for another type, 422 for a form's field that is no file, 503 if ``share`` is full.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in {"", "identity"}:
        raise RequestError(
            415, f"a body with Content-Encoding {encoding} is not read", fix="send it as it is"
        )
    media, options = parse_options_header(headers.get("content-type", ""))
    kind = media.decode("latin-1").strip().lower()
    _check_declared(headers.get("content-length"), most)
    parts = _chunks(receive, most, share)
    if kind == "multipart/form-data":
        return await _read_form(parts, options.get(b"boundary", b""))
    if not kind.startswith("image/") and kind != "application/octet-stream":
        stated = f"the type {kind}" if kind else "no Content-Type"
        raise RequestError(415, f"a body with {stated} is not a picture", fix=_TYPES)
    content = bytearray()
    async for part in parts:
        content += part
    if not content:
        raise RequestError(400, "the body is empty", fix=_TYPES)
    return [Upload("-", bytes(content))]


def _check_declared(length: str | None, most: int) -> None:
    if length is not None and length.isdigit() and int(length[:20]) > most:
        raise _too_long(most)


def _too_long(most: int) -> RequestError:
    return RequestError(
        413,
        f"the body has more than {most:,} bytes",
        fix="send smaller or fewer pictures, or start the server with a higher --max-bytes",
    )


async def _chunks(receive: Receive, most: int, share: Share) -> AsyncIterator[bytes]:
    """Yield the body as it comes; raises as soon as a limit is passed."""
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > most:
            raise _too_long(most)
        share.add(len(part))
        if part:
            yield part
        if not message.get("more_body", False):
            return


async def _read_form(parts: AsyncIterator[bytes], boundary: bytes) -> list[Upload]:
    if not boundary:
        raise RequestError(400, "the form states no boundary", fix=_TYPES)
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            form.callbacks(),
            max_header_count=_MOST_HEADERS,
            max_header_size=_LONGEST_HEADER,
        )
        async for part in parts:
            parser.write(part)
        parser.finalize()
    except FormParserError as error:
        raise RequestError(400, f"the form is damaged: {error}", fix=_TYPES) from None
    if not form.ended:
        raise RequestError(400, "the form is not complete", fix="send it again")
    if not form.files:
        raise RequestError(400, "the form has no file", fix=_TYPES)
    return form.files


class _Form:
    """Collects the files of a form from the parser's callbacks."""

    def __init__(self) -> None:
        self.files: list[Upload] = []
        self.ended = False
        self._header: list[bytearray] = [bytearray(), bytearray()]
        self._disposition = b""
        self._name = ""
        self._content = bytearray()

    def callbacks(self) -> Any:
        """Return what :class:`MultipartParser` calls."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._extend(0, data[start:end]),
            "on_header_value": lambda data, start, end: self._extend(1, data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.files) == MOST_PICTURES:
            raise RequestError(
                413,
                f"the form has more than {MOST_PICTURES} files",
                fix="send several requests",
            )
        self._disposition, self._content = b"", bytearray()

    def _extend(self, place: int, data: bytes) -> None:
        self._header[place] += data

    def _end_header(self) -> None:
        name, value = (bytes(part) for part in self._header)
        self._header = [bytearray(), bytearray()]
        if name.strip().lower() == b"content-disposition":
            self._disposition = value

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        file = options.get(b"filename")
        if file is None:
            field = options.get(b"name", b"").decode("utf-8", "replace")
            raise RequestError(422, f"the form's field {field!r:.80} is not a file", fix=_TYPES)
        self._name = file.decode("utf-8", "replace")

    def _add(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def _end_part(self) -> None:
        self.files.append(Upload(self._name or "-", bytes(self._content)))
        self._content = bytearray()

    def _end(self) -> None:
        self.ended = True
