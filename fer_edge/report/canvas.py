"""What all pictures share: colours that everyone can tell apart, and a sheet measured in inches."""

from __future__ import annotations

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
    "write_title",
]

INK, MUTED, FAINT, OTHER = "#1f1f1f", "#6b6b6b", "#e3e3e3", "#b9b9b9"
RIGHT, WRONG = "#0072b2", "#d55e00"
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""Okabe and Ito's colours (2008), told apart with any colour vision; gray for their yellow."""

MARGIN = 0.25
"""Inches around a sheet."""

_DPI = 150
_EM = 0.0079
"""Inches that a letter takes in the mean, per point of its size, rounded up."""


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of so many inches; MissingExtraError without matplotlib."""
    require("matplotlib", "report")
    # The object interface: pyplot would look for a display and keep the figure for ever.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path | str) -> Path:
    """Write a figure atomically, in the format of the path's ending."""
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
    return path


def write_title(figure: Any, title: str, *lines: str) -> None:
    """Write the title and further lines over a figure; a long title is broken at its ``|``."""
    size = 11
    if len(title) * size * _EM > figure.get_figwidth() - 0.3:
        title = title.replace(" | ", "\n")
    longest = max(len(line) for line in title.splitlines())
    # What is still too long, say a long path, becomes smaller: nothing is cut off.
    size = min(size, (figure.get_figwidth() - 0.3) / (longest * _EM))
    text = figure.suptitle("\n".join([title, *lines]), fontsize=size, linespacing=1.5)
    text.set_parse_math(False)


def quiet(axes: Any, *, grid: str | None = None) -> None:
    """Take away a diagram's box; ``grid`` is "x", "y" or "both"."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(OTHER)
    axes.tick_params(colors=MUTED, labelcolor=INK)
    if grid:
        axes.grid(True, axis=grid, color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)


def describe_images(images: FerDataset, split: str) -> str:
    """Return which images a picture is about."""
    kind = "SYNTHETIC faces, not FER2013: " if images.synthetic else ""
    return f"{kind}{images.source}, {split}, n = {len(images):,}"


def faces_notice(images: FerDataset | None) -> str:
    """Return what a sheet of faces must say at its foot; "" for drawn ones."""
    if images is None or images.synthetic:
        return ""
    return f"Faces from {images.source}: not for publication"


class Sheet:
    """Pictures, bars and texts at exact places: inches from the left and from the top.

    One set of axes holds it all, which draws a hundred faces in about a second. ``title`` and
    ``subtitle`` stand at its head; where they need it, the sheet is wider than ``width``.
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
        words: str,
        *,
        size: float = 8,
        colour: str = INK,
        bold: bool = False,
        align: str = "left",
    ) -> None:
        """Write ``words`` with their middle at height ``y``; ``$`` and ``_`` mean themselves."""
        self._axes.text(
            x,
            y,
            words,
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
