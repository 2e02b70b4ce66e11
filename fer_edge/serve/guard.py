"""The outermost layer: who may ask, what every answer carries, and what is counted and logged.

A page on the web can make a browser send requests to a server on the user's own machine. Two
checks refuse them. *Host*: a name that an attacker's DNS leads here (DNS rebinding) is none of the
server's names. *Origin* and *Sec-Fetch-Site*: a browser says which site a request comes from, and
only this server's own page may ask.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fer_edge.printable import one_line
from fer_edge.progress import logger
from fer_edge.serve.problems import ClientGoneError, RequestError

if TYPE_CHECKING:
    from fer_edge.serve.metrics import Metrics
    from fer_edge.serve.settings import Settings

__all__ = ["HEADERS", "ROUTES", "Guard"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

ROUTES = (
    *("/", "/page.css", "/page.js", "/icon.svg", "/openapi.json"),
    *("/v1/predict", "/v1/model", "/healthz", "/readyz", "/metrics"),
)
"""The paths that there are; a log and the metrics name no other one, since it may name a file."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers of every answer: the page may load from and send to this server only."""

_HOST = re.compile(r"[a-z0-9._~\[\]:-]+")
"""A Host header, lower case: a name or an address, and a port."""

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_DRAIN_S = 2.0
_GONE = 499
"""The status in metrics of a request whose client closed the connection, as nginx has it."""


class Guard:
    """ASGI middleware; see the module."""

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics
        self._drain = 2 * settings.max_bytes
        self._loopback = settings.loopback
        self._names = {"localhost", *(name.lower().rstrip(".") for name in settings.names)}
        if not settings.loopback:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in scope["headers"]
        }
        exchange = _Exchange(headers, receive, send, self._drain)
        try:
            self._check(scope, headers)
            await self.app(scope, exchange.receive, exchange.send)
        except ClientGoneError:
            exchange.status = _GONE
        except RequestError as refused:
            await exchange.refuse(refused)
        except Exception as error:
            # Not its text: that may hold the name of a file.
            logger.error("a request failed: %s at %s", type(error).__name__, _place(error))
            await exchange.refuse(
                RequestError(500, "the server has a fault", fix="its log says where")
            )
        finally:
            seconds = time.perf_counter() - started
            route = scope["path"] if scope["path"] in ROUTES else "other"
            method = scope["method"] if scope["method"] in _METHODS else "other"
            status = exchange.status or _GONE
            self._metrics.request(route, method, status, seconds)
            logger.info("%s %s %d %.1f ms", method, route, status, 1e3 * seconds)

    def _check(self, scope: MutableMapping[str, Any], headers: Mapping[str, str]) -> None:
        """Raise RequestError 403 for a request that a page of another site may have caused."""
        hosts = [value for name, value in scope["headers"] if name.lower() == b"host"]
        host = headers.get("host", "").strip().lower()
        if len(hosts) != 1 or not self._is_ours(host):
            raise RequestError(
                403,
                f"this server is not {one_line(host)!r:.100}",
                fix="open it by its address, or start it with --allow-host NAME",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin.strip().lower()).netloc != host:
            raise _other_site()
        site = headers.get("sec-fetch-site", "none")
        # A link on another site may open the page, since that site cannot see or steer it.
        opens = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
        if site not in {"same-origin", "none"} and not opens:
            raise _other_site()

    def _is_ours(self, host: str) -> bool:
        """Return whether a Host header has a name of this server; the port does not matter.

        A number is none that DNS can lead elsewhere.
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "") if _HOST.fullmatch(host) else ""
        except ValueError:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self._names
        return address.is_loopback or not self._loopback


def _other_site() -> RequestError:
    return RequestError(
        403,
        "a request from another site is refused",
        fix="use the page of this server, or a program that is no browser",
    )


class _Exchange:
    """One request and its answer: adds the headers, and reads the rest of a refused body."""

    def __init__(
        self, headers: Mapping[str, str], receive: Receive, send: Send, drain: int
    ) -> None:
        self.status: int | None = None
        self._receive, self._send = receive, send
        self._drain = drain
        length = headers.get("content-length", "0")
        self._unread = length != "0" or "transfer-encoding" in headers
        # This client waits for our word, and sends nothing after an error.
        self._waits = headers.get("expect", "").lower() == "100-continue"
        self._long = length.isdigit() and int(length[:20]) > drain

    async def receive(self) -> Message:
        message = await self._receive()
        self._waits = False
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            extra = dict(HEADERS)
            if self._unread and not await self._read_rest():
                extra["connection"] = "close"
            message["headers"] = [
                *message.get("headers", []),
                *((name.encode(), value.encode()) for name, value in extra.items()),
            ]
        await self._send(message)

    async def refuse(self, problem: RequestError) -> None:
        """Send a refusal as JSON, unless the answer has begun."""
        if self.status is not None:
            return
        body = json.dumps(problem.body).encode()
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "cache-control": "no-store",
            **problem.headers,
        }
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": pairs})
        await self.send({"type": "http.response.body", "body": body})

    async def _read_rest(self) -> bool:
        """Read and drop the rest of a body, within limits; return whether all was read.

        Many clients read an answer only after they have sent all: they would see a broken
        connection in place of the error.
        """
        if self._waits or self._long:
            return False
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop(), _DRAIN_S)
        return not self._unread

    async def _drop(self) -> None:
        size = 0
        while self._unread and size < self._drain:
            size += len((await self.receive()).get("body", b""))


def _place(error: BaseException) -> str:
    """Return ``module:line`` of where an error was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
