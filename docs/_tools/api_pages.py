"""The reference of the Python API: one page per part of the package, from every ``__all__``."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Exports", "exports", "pages"]

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "fer_edge"

ALSO = ("analyzer.analyzer.Analysis", "analyzer.analyzer.Face")
"""Types that the public names return, and that are public for this reason."""

WITHOUT = ("cli", "__main__")
"""Not here: the commands have the reference of the command line."""

HEAD = """---
title: "{title}"
---

# {title}

{text}
"""


@dataclass(frozen=True)
class Exports:
    """What a module exports: the names that it defines, and those that it passes on."""

    module: str
    own: tuple[str, ...]
    passed_on: dict[str, str]
    """Name -> the module that it is imported from."""


def exports(path: Path) -> Exports:
    """Read ``__all__`` and the imports of one file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    names: list[str] = []
    origin: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fer_edge"):
            origin |= {alias.asname or alias.name: str(node.module) for alias in node.names}
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = ast.literal_eval(node.value)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
            origin |= ast.literal_eval(node.value)
    defined = {
        ast.unparse(target)
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    }
    passed_on = {name: origin[name] for name in names if name in origin and name not in defined}
    return Exports(module, tuple(name for name in names if name not in passed_on), passed_on)


def modules() -> list[Exports]:
    """Return what every module of the package exports, commands left out."""
    files = sorted(path for path in PACKAGE.rglob("*.py") if "_resources" not in path.parts)
    found = [exports(path) for path in files]
    return [one for one in found if "." in one.module and one.module.split(".")[1] not in WITHOUT]


def _section(one: Exports, public: set[str]) -> str:
    """Return the block that mkdocstrings fills for one module, its public names left out."""
    own = [name for name in one.own if f"{one.module}.{name}" not in public]
    lines = [
        f"## `{one.module}`",
        "",
        f"::: {one.module}",
        "    options:",
        "      show_root_heading: false",
        "      show_root_toc_entry: false",
        "      members: " + (f"[{', '.join(own)}]" if own else "false"),
        "",
    ]
    there = [f"[`{name}`][{one.module}.{name}]" for name in one.own if name not in own]
    if there:
        lines += [f"Of the public API: {', '.join(there)}.", ""]
    if one.passed_on:
        shown = ", ".join(
            f"`{name}` (of `{place}`)" for name, place in sorted(one.passed_on.items())
        )
        lines += [f"Also exported here: {shown}.", ""]
    return "\n".join(lines)


def pages() -> dict[str, tuple[str, str]]:
    """Return path -> (title in the navigation, Markdown): the public API first."""
    every = modules()
    homes = _homes(exports(PACKAGE / "__init__.py"))
    errors = next(one for one in every if one.module == "fer_edge.errors").own
    public = {f"{place}.{name}" for name, place in homes.items()}
    public |= {f"fer_edge.{name}" for name in ALSO}
    public |= {f"fer_edge.errors.{name}" for name in errors if name[0].isupper()}
    listed = "\n".join(f"- [`{name}`][{place}.{name}]" for name, place in sorted(homes.items()))
    text = (
        "The names of `fer_edge.__all__`, what they return and the errors they raise. They keep "
        "their promise: see [Stability](../stability.md). They are imported on first use, so that "
        f"`import fer_edge` is fast.\n\n{listed}\n\nHow the package is made inside:\n\n"
    )
    found = {}
    parts: dict[str, list[Exports]] = {}
    for one in every:
        name = one.module.split(".")[1]
        parts.setdefault(name if (PACKAGE / name).is_dir() else "single", []).append(one)
    inside = (
        "Inside the package: these names may change in any version "
        "([Stability](../stability.md)). The names of the [public API](index.md) stay."
    )
    for part, group in sorted(parts.items(), key=lambda item: (item[0] == "single", item)):
        title = "Single files of fer_edge" if part == "single" else f"fer_edge.{part}"
        body = "\n".join(_section(one, public) for one in group)
        found[f"reference/api/{part}.md"] = (title, HEAD.format(title=title, text=inside) + body)
    text += "\n".join(
        f"- [{title}]({path.rpartition('/')[2]})" for path, (title, _) in found.items()
    )
    order = sorted(public, key=lambda name: ("errors" in name, name.rpartition(".")[2].lower()))
    body = "\n".join(f"::: {name}\n" for name in order)
    first = HEAD.format(title="Python API", text=text + "\n") + body
    return {"reference/api/index.md": ("The public API", first)} | found


def _homes(names: Exports) -> dict[str, str]:
    """Return public name -> the module that defines it, through packages that pass it on."""
    homes = {}
    for name, place in names.passed_on.items():
        path = PACKAGE.parent.joinpath(*place.split("."))
        while path.is_dir():
            inner = exports(path / "__init__.py").passed_on.get(name)
            if inner is None:
                break
            place, path = inner, PACKAGE.parent.joinpath(*inner.split("."))
        homes[name] = place
    return homes
