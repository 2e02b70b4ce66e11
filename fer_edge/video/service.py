"""What a long run needs: signals that end it after the current frame, and systemd's watchdog."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Stop", "Watchdog"]


class Stop:
    """Sets ``event`` on SIGINT and SIGTERM; a second signal interrupts at once.

    ``reason`` says what ended the run. Outside the main thread, signals are not changed.
    """

    def __init__(self) -> None:
        self.event = threading.Event()
        self.reason: str | None = None
        self._before: dict[int, Any] = {}

    def ask(self, reason: str) -> None:
        """End the run after the current frame."""
        self.reason = self.reason or reason
        self.event.set()

    @property
    def by_signal(self) -> bool:
        """Whether a signal ended the run."""
        return self.reason is not None and self.reason.startswith("SIG")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.by_signal:
            raise KeyboardInterrupt
        self.reason = signal.Signals(number).name
        self.event.set()

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Watchdog:
    """Notifies systemd when the run is ready, and at each frame; does nothing without systemd.

    See sd_notify(3): it sends a datagram to the socket in the variable NOTIFY_SOCKET.
    """

    def __init__(self, address: str | None = None) -> None:
        address = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")
        # The name of an abstract socket begins with a zero byte, which is written as "@".
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def tell(self, state: str) -> None:
        """Send ``READY=1``, ``WATCHDOG=1`` or ``STOPPING=1``."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect(self._address)
            notify.sendall(state.encode())
