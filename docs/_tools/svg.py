"""Boxes, arrows and words as SVG, in the colours of the page (docs/assets/extra.css)."""

from __future__ import annotations

from html import escape

__all__ = ["Drawing"]

_CHARACTER = 0.53
"""The width of a character as a part of the font's size, with which a box is checked."""


class Drawing:
    """An SVG that grows by boxes, lines and words; ``str()`` is the figure as HTML."""

    def __init__(self, name: str, width: int, height: int, title: str, caption: str = "") -> None:
        self.name, self.width, self.height = name, width, height
        self.title, self.caption = title, caption
        self.parts: list[str] = []

    def box(
        self,
        x: float,
        y: float,
        w: float,
        h: float,
        *lines: str,
        kind: str = "box",
        size: float = 13,
        mono: bool = False,
    ) -> None:
        """Draw a box with centred lines, the first in bold; ValueError if a line does not fit."""
        line = {"box": "line", "soft": "line", "dashed": "line"}.get(kind, kind)
        fill = {"box": "box", "dashed": "none"}.get(
            kind, "soft" if kind == "soft" else f"{kind}-soft"
        )
        dash = ' stroke-dasharray="5 4"' if kind == "dashed" else ""
        paint = "none" if fill == "none" else f"var(--fe-{fill})"
        self.parts.append(
            f'<rect x="{x}" y="{y}" width="{w}" height="{h}" rx="6" fill="{paint}" '
            f'stroke="var(--fe-{line})"{dash}/>'
        )
        first = y + h / 2 - (len(lines) - 1) * size * 0.66 + size * 0.36
        for row, words in enumerate(lines):
            scale = size if row == 0 else size - 1.5
            if len(words) * scale * (0.62 if mono else _CHARACTER) > w - 4:
                raise ValueError(f"{self.name}: {words!r} is wider than its box")
            self.text(
                x + w / 2,
                first + row * size * 1.32,
                words,
                size=scale,
                bold=row == 0,
                muted=row > 0,
                anchor="middle",
                mono=mono and row == 0,
            )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        bold: bool = False,
        muted: bool = False,
        anchor: str = "start",
        mono: bool = False,
        colour: str = "",
    ) -> None:
        """Write ``words`` on the base line ``y``."""
        paint = colour or ("muted" if muted else "ink")
        family = "monospace" if mono else "sans-serif"
        weight = ' font-weight="600"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" font-family="{family}"{weight} '
            f'text-anchor="{anchor}" fill="var(--fe-{paint})">{escape(words)}</text>'
        )

    def arrow(self, *points: tuple[float, float], words: str = "", kind: str = "line") -> None:
        """Draw an arrow through ``points``; ``words`` stand above the middle of its first part."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="var(--fe-{kind})" stroke-width="1.5" '
            f'marker-end="url(#{self.name}-{kind})"/>'
        )
        if words:
            (x1, y1), (x2, y2) = points[0], points[1]
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - 6, words, size=11, muted=True, anchor="middle")

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "line") -> None:
        """Draw a plain line."""
        self.parts.append(
            f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="var(--fe-{kind})"/>'
        )

    def bar(self, x: float, y: float, w: float, h: float, kind: str = "accent") -> None:
        """Draw a filled bar."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="2" '
            f'fill="var(--fe-{kind})"/>'
        )

    def curve(self, points: list[tuple[float, float]], kind: str = "accent") -> None:
        """Draw straight lines through ``points``."""
        path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self.parts.append(
            f'<path d="{path}" fill="none" stroke="var(--fe-{kind})" stroke-width="2.2"/>'
        )

    def __str__(self) -> str:
        heads = "".join(
            f'<marker id="{self.name}-{kind}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="var(--fe-{kind})"/>'
            "</marker>"
            for kind in ("line", "accent", "warm", "good")
        )
        caption = f"<figcaption>{escape(self.caption)}</figcaption>" if self.caption else ""
        return (
            f'<figure class="picture"><svg viewBox="0 0 {self.width} {self.height}" role="img" '
            f'aria-label="{escape(self.title, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
            f"<defs>{heads}</defs>{''.join(self.parts)}</svg>{caption}</figure>"
        )
