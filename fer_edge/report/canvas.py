"""Shared by all pictures: colours for any colour vision, and a sheet measured in inches."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.errors import require
from fer_edge.files import atomic_path

if TYPE_CHECKING:
    import numpy as np

    from fer_edge.data import FerDataset

__all__ = [
    "FAINT",
    "INK",
    "LINES",
    "MARGIN",
    "MUTED",
    "OTHER",
    "RIGHT",
    "WRONG",
    "Sheet",
    "describe_images",
    "faces_notice",
    "new_figure",
    "quiet",
    "save_figure",
    "set_log_limits",
    "whatever_the_names",
    "write_title",
]

INK, MUTED, FAINT, OTHER = "#1f1f1f", "#6b6b6b", "#e3e3e3", "#b9b9b9"
"""Colours of text and lines, from strong to faint, and of what is not looked at."""
RIGHT, WRONG = "#0072b2", "#d55e00"
"""Colours of right and wrong answers, which colour-blind people can tell apart."""
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""The colours of Okabe and Ito (2008), for any colour vision; gray replaces their yellow."""

MARGIN = 0.25
"""Inches around a sheet."""

_DPI = 150
_LEAST_RATIO = 4.0
"""Of the ends of a logarithmic axis: one of 1, 2, 5, 10 is always between them."""
_EM = 0.0079
"""Mean width of a letter in inches, per point of its size, rounded up."""


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure; sizes in inches. Raises MissingExtraError without matplotlib."""
    require("matplotlib", "report")
    # The object interface: pyplot would need a display and keep the figure in memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path | str) -> Path:
    """Write a figure atomically, in the format of the path's suffix."""
    path = Path(path)
    with atomic_path(path) as temporary, whatever_the_names():
        figure.savefig(temporary)
    return path


@contextmanager
def whatever_the_names() -> Iterator[None]:
    """Draw names of users without matplotlib's warnings about them.

    A font may lack their letters, and a long one leaves no place for a diagram. The text beside a
    figure, or its table, has the names.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        warnings.filterwarnings("ignore", "constrained_layout not applied", UserWarning)
        yield


def set_log_limits(axes: Any, values: Sequence[float], margin: float = 0.05) -> None:
    """Make the x axis logarithmic, for positive values, before anything is drawn.

    ``margin`` is a share of their range, on each side. Values that are nearly the same get an axis
    from half to twice, so that it has a tick; matplotlib warns of an axis without a length.
    """
    low, high = min(values), max(values)
    wider = max((high / low) ** margin, (_LEAST_RATIO * low / high) ** 0.5)
    axes.set_xscale("log")
    axes.set_xlim(low / wider, high * wider)


def write_title(figure: Any, title: str, *lines: str) -> None:
    """Write the title and more lines above a figure; a long title is broken at its ``|``."""
    size = 11
    if len(title) * size * _EM > figure.get_figwidth() - 0.3:
        title = title.replace(" | ", "\n")
    longest = max(len(line) for line in title.splitlines())
    # A title that is still too long (a long path) gets a smaller font, so that it is not cut off.
    size = min(size, (figure.get_figwidth() - 0.3) / (longest * _EM))
    text = figure.suptitle("\n".join([title, *lines]), fontsize=size, linespacing=1.5)
    text.set_parse_math(False)


def quiet(axes: Any, *, grid: str | None = None) -> None:
    """Remove the box of a diagram; ``grid`` is "x", "y" or "both"."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(OTHER)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    if grid:
        axes.grid(True, axis=grid, color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)


def describe_images(images: FerDataset, split: str) -> str:
    """Return a description of the images of a picture: source, split and number."""
    kind = "SYNTHETIC faces, not FER2013: " if images.synthetic else ""
    votes = ", labels by votes" if images.by_votes else ""
    return f"{kind}{images.source}, {split}{votes}, n = {len(images):,}"


def faces_notice(images: FerDataset | None) -> str:
    """Return the notice at the foot of a sheet of faces; "" for synthetic faces."""
    if images is None or images.synthetic:
        return ""
    return f"Faces from {images.source}: not for publication"


class Sheet:
    """Pictures, bars and texts at exact positions, in inches from the left and from the top.

    One set of axes has all of them, so a hundred faces take about a second. ``title`` and
    ``subtitle`` are at the top; if they need it, the sheet is wider than ``width``.
    """

    def __init__(self, width: float, height: float, *, title: str, subtitle: str) -> None:
        needed = _EM * max(10 * len(title), 8 * len(subtitle)) + 2 * MARGIN
        self.width, self.height = max(width, needed), height
        width = self.width
        self.figure = new_figure(width, height)
        self.figure.set_layout_engine("none")
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.set(xlim=(0, width), ylim=(height, 0))
        self._axes.axis("off")
        self.text(MARGIN, 0.2, title, size=10)
        self.text(MARGIN, 0.42, subtitle, size=8, colour=MUTED)

    def image(self, x: float, y: float, side: float, pixels: np.ndarray) -> None:
        """Draw u8[H,W] gray or f32[H,W,3] colours (0..1) as a square."""
        self._axes.imshow(
            pixels,
            cmap="gray",
            vmin=0,
            vmax=255,
            extent=(x, x + side, y + side, y),
            interpolation="bicubic",
            interpolation_stage="rgba",
        )
        # imshow fits the axes to what it draws.
        self._axes.set(xlim=(0, self.width), ylim=(self.height, 0), aspect="auto")

    def bar(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Draw a filled rectangle."""
        from matplotlib.patches import Rectangle

        self._axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, linewidth=0))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 8,
        colour: str = INK,
        bold: bool = False,
        align: str = "left",
    ) -> None:
        """Write ``text``, centred at height ``y``; ``$`` and ``_`` are printed as they are."""
        self._axes.text(
            x,
            y,
            text,
            fontsize=size,
            color=colour,
            fontweight="bold" if bold else "normal",
            ha=align,
            va="center",
            parse_math=False,
        )

    def save(self, path: Path | str) -> Path:
        """Write the sheet."""
        return save_figure(self.figure, path)
