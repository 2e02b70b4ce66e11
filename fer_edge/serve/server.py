"""Run the server: one process, or several that share the socket and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from fer_edge.errors import FerEdgeError, UnavailableError, UsageError
from fer_edge.files import temporary_folder
from fer_edge.progress import logger
from fer_edge.serve.app import app_of
from fer_edge.serve.metrics import FOLDER
from fer_edge.serve.settings import Settings

__all__ = ["bind", "is_loopback", "run"]

_STOP = (signal.SIGINT, signal.SIGTERM)
_MARGIN_S = 5
_RESTART_S = 1.0
_BACKLOG = 128


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; port 0 takes a free one.

    Raises UsageError for a host that is unknown or not of this machine, and UnavailableError for a
    port that cannot be had.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise UsageError(f"the host {host!r} is not known", fix="--host 127.0.0.1") from None
    sock = socket.socket(family, kind)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _bind_error(host, port, error) from None
    sock.setblocking(False)
    return sock


def _bind_error(host: str, port: int, error: OSError) -> FerEdgeError:
    if error.errno == errno.EADDRINUSE:
        return UnavailableError(f"port {port} is in use", fix="--port 0 takes a free port")
    if error.errno == errno.EACCES:
        return UnavailableError(
            f"this user may not listen on port {port}", fix="use a port above 1023"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"{host} is no address of this machine", fix="--host 127.0.0.1")
    return UnavailableError(f"{host} port {port} cannot be had: {error.strerror}")


def is_loopback(sock: socket.socket) -> bool:
    """Return whether only this machine can reach the socket."""
    return ipaddress.ip_address(sock.getsockname()[0].partition("%")[0]).is_loopback


def run(settings: Settings, sock: socket.socket, workers: int, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then requests in flight are answered, and it returns.

    ``started`` is called when all processes answer. Raises what
    :class:`~fer_edge.Classifier` raises, before that.
    """
    with _log_on_stderr(logger.level):
        if workers == 1:
            _serve(settings, sock, started)
            return
        with _metrics_folder() as folder:
            _Workers(settings, sock, workers, folder).run(started)


def _serve(settings: Settings, sock: socket.socket, started: Callable[[], None]) -> None:
    """Serve in this process."""
    with _exit_on(signal.SIGTERM):
        app = app_of(settings)
    _Server(_config(app, settings), started).run(sockets=[sock])


def _config(app: Any, settings: Settings) -> uvicorn.Config:
    # No access log of uvicorn's: it has whole addresses, which may name files. Guard has one.
    return uvicorn.Config(
        app,
        loop="asyncio",
        http=_protocol(settings.timeout_s),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.timeout_s) + _MARGIN_S,
    )


class _Server(uvicorn.Server):
    """uvicorn's server; it ends with exit code 0 after SIGTERM, where uvicorn raises it again."""

    def __init__(self, config: uvicorn.Config, when_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._when_started = when_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._when_started()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may
            return
        wanted = [number for number in _STOP if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _protocol(patience_s: float) -> type[H11Protocol]:
    """Return uvicorn's protocol with a limit for a request's head, which uvicorn waits for long."""

    class Protocol(H11Protocol):
        _head: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._head = self.loop.call_later(patience_s, self.timeout_keep_alive_handler)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            begun = bool(self.conn.trailing_data[0])
            if self.conn.their_state is not h11.IDLE or not begun:
                self._cancel()
            elif self._head is None:
                self._head = self.loop.call_later(patience_s, self.timeout_keep_alive_handler)

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel()
            super().connection_lost(exc)

        def _cancel(self) -> None:
            if self._head is not None:
                self._head.cancel()
                self._head = None

    return Protocol


class _Workers:
    """Several processes with the same socket: starts them, starts a lost one again, stops all."""

    def __init__(self, settings: Settings, sock: socket.socket, count: int, folder: str) -> None:
        self._settings, self._sock, self._folder = settings, sock, folder
        self._count = count
        self._context = multiprocessing.get_context("spawn")
        self._running: dict[Any, Connection] = {}
        self._stopping = False

    def run(self, started: Callable[[], None]) -> None:
        before = {number: signal.signal(number, self._stop) for number in _STOP}
        try:
            self._start(self._count)
            if not self._stopping:
                started()
            while not self._stopping:
                wait([process.sentinel for process in self._running], timeout=0.2)
                self._replace_lost()
        finally:
            self._end()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _start(self, count: int) -> None:
        """Start processes and wait until they answer; raises the error of one that cannot."""
        fresh = []
        for _ in range(count):
            ours, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_work, args=(self._settings, self._sock, theirs, logger.level)
            )
            process.start()
            theirs.close()
            self._running[process] = ours
            fresh.append((process, ours))
        for process, ours in fresh:
            while not self._stopping and not ours.poll(0.2):
                pass
            if self._stopping:
                return
            try:
                error = ours.recv()
            except EOFError:
                process.join()
                error = UnavailableError(f"a worker {_ending(process.exitcode)} while it started")
            if error is not None:
                raise error

    def _replace_lost(self) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        lost = [process for process in self._running if not process.is_alive()]
        for process in lost:
            self._running.pop(process).close()
            mark_process_dead(process.pid, path=self._folder)  # type: ignore[no-untyped-call]
            if not self._stopping:
                logger.error("a worker %s: it is started again", _ending(process.exitcode))
        if lost and not self._stopping:
            # One that fails at once, again and again, must not take the whole machine.
            time.sleep(_RESTART_S)
            self._start(len(lost))

    def _end(self) -> None:
        for process in self._running:
            process.terminate()
        until = time.monotonic() + self._settings.timeout_s + 2 * _MARGIN_S
        for process, ours in self._running.items():
            process.join(max(0.0, until - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()
            ours.close()


def _work(settings: Settings, sock: socket.socket, parent: Connection, level: int) -> None:
    """Be one worker; ``parent`` gets None when it answers, or the error, and ends it."""
    # Ctrl-C reaches every process of the terminal; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sock.setblocking(False)

    def started() -> None:
        parent.send(None)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()

    with _log_on_stderr(level):
        try:
            _serve(settings, sock, started)
        except FerEdgeError as error:
            parent.send(error)
            sys.exit(error.exit_code)


def _end_with(parent: Connection) -> None:
    """Stop this process when its parent has gone, however that ended."""
    with contextlib.suppress(EOFError, OSError):
        parent.recv()
    # The parent could not: it was killed.
    shutil.rmtree(os.environ[FOLDER], ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)


def _ending(code: int | None) -> str:
    return (
        f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
    )


@contextlib.contextmanager
def _exit_on(number: signal.Signals) -> Iterator[None]:
    """End with exit code 0 on a signal while nothing is in flight yet."""
    before = signal.signal(number, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(number, before)


@contextlib.contextmanager
def _metrics_folder() -> Iterator[str]:
    """Make the folder in which the processes add up their metrics, in memory where there is one."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    before = os.environ.get(FOLDER)
    with temporary_folder("metrics", place) as folder:
        os.environ[FOLDER] = str(folder)
        try:
            yield str(folder)
        finally:
            if before is None:
                del os.environ[FOLDER]
            else:
                os.environ[FOLDER] = before


@contextlib.contextmanager
def _log_on_stderr(level: int) -> Iterator[None]:
    """Show errors of the server on stderr; ``level`` is that of ``-v``, which shows more, or 0."""
    if any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        yield
        return
    handler, before = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(level or logging.WARNING)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
