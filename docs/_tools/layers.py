"""The layers of the package, from the table of tests/test_architecture.py and from every import."""

from __future__ import annotations

import ast
from pathlib import Path

from svg import Drawing

__all__ = ["imports_table", "levels", "picture"]

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "test_architecture.py"
PACKAGE = ROOT / "fer_edge"

_WIDE = 820
_COLUMNS = 6


def levels() -> dict[str, int]:
    """Return part of the package -> level: ``LEVELS``, the table that the test enforces."""
    for node in ast.parse(TABLE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "LEVELS":
            assert node.value is not None
            found: dict[str, int] = ast.literal_eval(node.value)
            return found
    raise LookupError(f"{TABLE} has no LEVELS")


def picture() -> Drawing:
    """Draw one row per level, the highest first."""
    table = levels()
    rows = {level: [part for part, at in table.items() if at == level] for level in table.values()}
    heights = {level: 46 * -(-len(parts) // _COLUMNS) + 10 for level, parts in rows.items()}
    d = Drawing(
        "layers",
        _WIDE,
        sum(heights.values()) + 20,
        "The layers of fer_edge: "
        + "; ".join(f"{n}: {', '.join(rows[n])}" for n in sorted(rows, reverse=True)),
        "A part imports only parts of lower rows; the parts of row 1 may import each other, never "
        "in a circle.",
    )
    y = 10
    for level in sorted(rows, reverse=True):
        d.text(14, y + 32, str(level), size=18, bold=True, muted=True)
        wide = (_WIDE - 60) / _COLUMNS
        for place, part in enumerate(rows[level]):
            kind = "soft" if level == 1 else "accent" if level > 5 else "box"
            x, down = 50 + (place % _COLUMNS) * wide, 46 * (place // _COLUMNS)
            d.box(x, y + 5 + down, wide - 8, 38, part, kind=kind)
        y += heights[level]
        if level > 1:
            d.line(10, y, _WIDE - 10, y)
    return d


def imports_table() -> str:
    """Return a Markdown table: what each part imports from the others, in use and for types."""
    table = levels()
    used: dict[str, set[str]] = {part: set() for part in table}
    files = dict.fromkeys(table, 0)
    for path in PACKAGE.rglob("*.py"):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part not in table:
            continue
        files[part] += 1
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{name.name}" for name in node.names)]
                used[part] |= {name.split(".")[1] for name in names if name.startswith("fer_edge.")}
    lines = ["| level | part | files | imports |", "|---|---|---|---|"]
    for part in sorted(table, key=lambda part: (-table[part], part)):
        others = sorted((used[part] & set(table)) - {part}, key=lambda name: (-table[name], name))
        shown = ", ".join(f"`{name}`" for name in others) or "-"
        lines.append(f"| {table[part]} | `{part}` | {files[part]} | {shown} |")
    return "\n".join(lines)
