"""A window of OpenCV, and why there may be none."""

from __future__ import annotations

import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.errors import UnavailableError
from fer_edge.video.opencv import opencv

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Window"]

_TITLE = "fer-edge"
_NO_WINDOW = "--format json prints lines, and --write FILE.mp4 saves a video instead"


class Window:
    """One window; raises :class:`UnavailableError` where OpenCV or the machine has none."""

    def __init__(self) -> None:
        self._cv2 = opencv()
        # The Qt of OpenCV's wheels has no fonts, and says so for each window; texts are ours.
        os.environ.setdefault("QT_LOGGING_RULES", "default.warning=false")
        gui = re.search(r"GUI:\s*(\w+)", self._cv2.getBuildInformation())
        problem = _display_problem(gui[1] if gui else "")
        if problem is not None:
            raise UnavailableError(problem, fix=_NO_WINDOW)
        try:
            # Without the tool bar of Qt, so that the frame is shown in its own size.
            flags = self._cv2.WINDOW_NORMAL | self._cv2.WINDOW_KEEPRATIO
            self._cv2.namedWindow(_TITLE, flags | self._cv2.WINDOW_GUI_NORMAL)
        except self._cv2.error as error:
            if "not implemented" not in str(error):
                raise
            raise UnavailableError(
                f"this OpenCV ({self._cv2.__version__}) was built without windows",
                fix="pip uninstall opencv-python-headless, then pip install 'opencv-python>=4.8,<5'"
                f"; or without a window: {_NO_WINDOW}",
            ) from None
        self._size: tuple[int, ...] = ()

    def show(self, pixels: np.ndarray, wait_s: float = 0.0) -> bool:
        """Show u8[H,W,3] BGR for at least ``wait_s`` seconds.

        Returns False once the user closed the window or pressed q or Esc.
        """
        if pixels.shape != self._size:
            self._size = pixels.shape
            self._cv2.resizeWindow(_TITLE, pixels.shape[1], pixels.shape[0])
        self._cv2.imshow(_TITLE, pixels)
        if self._cv2.waitKey(max(1, int(1000 * wait_s))) & 0xFF in {27, ord("q")}:
            return False
        return bool(self._cv2.getWindowProperty(_TITLE, self._cv2.WND_PROP_VISIBLE) >= 1)

    def close(self) -> None:
        """Close the window."""
        with suppress(self._cv2.error):  # the user has closed it
            self._cv2.destroyWindow(_TITLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _display_problem(gui: str) -> str | None:
    """Return why no window can be shown, or None: Qt would abort the program instead.

    ``gui`` is what OpenCV makes windows with, such as ``"QT5"``.
    """
    if not sys.platform.startswith("linux") or os.environ.get("QT_QPA_PLATFORM"):
        return None
    name = os.environ.get("DISPLAY", "")
    if not name and os.environ.get("WAYLAND_DISPLAY"):
        # The wheels of PyPI have Qt for X only.
        on_x = gui.startswith("QT")
        return "there is no X display: DISPLAY is not set, for XWayland" if on_x else None
    if not name:
        return "there is no display: DISPLAY is not set"
    host, _, rest = name.rpartition(":")
    number = rest.partition(".")[0]
    if not number.isdigit():
        return f"there is no display: DISPLAY is {name!r}"
    if host and not host.startswith(("unix", "/")):
        return _refusal(socket.AF_INET, (host, 6000 + int(number)), name)
    path = f"/tmp/.X11-unix/X{number}"
    if Path(path).exists():
        return _refusal(socket.AF_UNIX, path, name)
    return _refusal(socket.AF_UNIX, f"\0{path}", name)


def _refusal(family: int, address: tuple[str, int] | str, name: str) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as server:
            server.settimeout(5)
            server.connect(address)
    except OSError as error:
        return f"there is no display: DISPLAY is {name!r}, and {error.strerror or error}"
    return None
