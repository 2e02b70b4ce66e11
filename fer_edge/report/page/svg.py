"""A matplotlib figure as SVG that is part of an HTML page: its colours, its font, its ids.

Why matplotlib (measured in November 2026 with a scatter plot of three points; "page" is the HTML
file that works offline, "install" what pip adds to NumPy and Pillow, not compiled):

============== ======== ======== ====================================================
library        page     install  drawing
============== ======== ======== ====================================================
matplotlib SVG    7 kB    60 MB  in the file: no script, text is text, CSS sets colours
Bokeh         1,274 kB    40 MB  a script draws on a canvas: no text for a screen reader
Plotly        4,823 kB    47 MB  a script draws SVG; dark mode is a second template
Altair (Vega)   899 kB    97 MB  a script; works offline only with vl-convert (84 MB)
============== ======== ======== ====================================================

The package draws its other pictures with matplotlib already. SVG in the page needs no script, so
the page can forbid scripts altogether (Content-Security-Policy); the page's colours are CSS
variables, so that one drawing serves light and dark mode.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

from fer_edge.errors import require
from fer_edge.printable import printable
from fer_edge.report.canvas import whatever_the_names

__all__ = [
    "FAINT",
    "INK",
    "LOSS",
    "MUTED",
    "PAPER",
    "PRECISIONS",
    "drawing",
    "inline_svg",
    "new_drawing",
]

INK, MUTED, FAINT, PAPER, LOSS = "#010203", "#020304", "#030405", "#040506", "#050607"
"""Stand-ins for the colours of the page, which CSS replaces."""
PRECISIONS = {"fp32": "#0a0b01", "fp16": "#0a0b02", "int8": "#0a0b03", "": "#0a0b04"}
"""Colours that only stand for the variables below: matplotlib writes them, CSS replaces them."""

_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    FAINT: "line",
    PAPER: "paper",
    LOSS: "loss",
    **{colour: precision or "other" for precision, colour in PRECISIONS.items()},
}

_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a class may be called $x$
    "axes.unicode_minus": True,
    "font.family": ["sans-serif"],
    "font.size": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.markeredgecolor": "auto",
}


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with the page's style inside; MissingExtraError without matplotlib."""
    matplotlib = require("matplotlib", "report")
    with matplotlib.rc_context(_STYLE):
        yield


def new_drawing(width: float, height: float) -> Any:
    """Return an empty figure; sizes in inches. Use it inside :func:`drawing`."""
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(width, height), layout="constrained", frameon=False)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    return figure


def inline_svg(figure: Any, name: str, description: str) -> str:
    """Return a figure as an ``<svg>`` element whose ids start with ``name``, a plain word.

    ``description`` is what a screen reader says of it. Use it inside :func:`drawing`.
    """
    import matplotlib

    buffer = io.StringIO()
    unsigned = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.hashsalt": name}), whatever_the_names():
        figure.savefig(buffer, format="svg", transparent=True, metadata=unsigned)
    text = printable(buffer.getvalue())
    text = text[text.index("<svg") :]
    # Its style sheet would be that of the whole page.
    style, metadata = r"<defs>\s*<style.*?</style>\s*</defs>", "<metadata>.*?</metadata>"
    text = re.sub(f"{style}|{metadata}|<!--.*?-->", "", text, flags=re.S)
    box = re.search(r'viewBox="([^"]*)"', text)
    assert box is not None
    width = float(box[1].split()[2])
    head = (
        f'<svg class="plot" viewBox="{box[1]}" style="max-width: {width / 12:.2f}em" role="img" '
        f'aria-label="{escape(description)}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    text = head + text[text.index(">") + 1 :]
    text = _rounded(_with_variables(_with_own_ids(text, name)))
    return re.sub(r"\s*\n\s*", "\n", text).strip()


def _with_own_ids(text: str, name: str) -> str:
    """Number the ids that are used and remove the others: several figures share a page."""
    found = re.findall(r'(?:xlink:href="|url\()#([^")]+)', text)
    own = {used: f"{name}-{place}" for place, used in enumerate(dict.fromkeys(found))}

    def renamed(match: re.Match[str]) -> str:
        return f' id="{own[match[1]]}"' if match[1] in own else ""

    text = re.sub(r' id="([^"]*)"', renamed, text)
    return re.sub(
        r'(xlink:href="|url\()#([^")]+)', lambda match: f"{match[1]}#{own[match[2]]}", text
    )


def _rounded(text: str) -> str:
    """Round coordinates to a hundredth of a unit: a third of the file was digits nobody sees."""
    return re.sub(
        r' (?:d|x|y|transform)="[^"]*"',
        lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]),
        text,
    )


def _with_variables(text: str) -> str:
    """Replace colours and fonts, in ``style`` attributes only: elsewhere are names and numbers."""

    def styled(match: re.Match[str]) -> str:
        style = re.sub(
            r"#[0-9a-f]{6}",
            lambda c: f"var(--{_VARIABLES[c[0]]})" if c[0] in _VARIABLES else c[0],
            match[1],
        )
        style = re.sub(r"font-family: [^;]*;? ?", "", style)
        # Until matplotlib 3.9 the font is one property.
        style = re.sub(r"font: ((?:\w+ )?[\d.]+px) [^;]*", r"font: \1 var(--font)", style)
        return f'style="{style}"'

    return re.sub(r'style="([^"]*)"', styled, text)
