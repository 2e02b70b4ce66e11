"""Imports go down: the layers of CONTRIBUTING, read from every file's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fer_edge

PACKAGE = Path(fer_edge.__file__).parent

LEVELS: dict[str, int] = {
    "cli": 6,
    "convert": 5,
    "report": 5,
    "measure": 4,
    "classifier": 4,
    "training": 3,
    "backends": 3,
    "data": 2,
    "models": 2,
    "bundle": 2,
    "faces": 2,
    "errors": 1,
    "emotions": 1,
    "files": 1,
    "preprocessing": 1,
    "paths": 1,
    "version": 1,
    "pretrained": 1,
    "cpu": 1,
    "swap": 1,
    "progress": 1,
}
"""Part of the package -> its level. It may import lower levels, and level 1 whatever its own."""

SAME_PART = {"manifest": "bundle", "packing": "bundle", "usable": "bundle"}
"""Modules that are one part with another."""

TORCH_PARTS = {"models", "training"}
TORCH_MODULES = {"convert.export", "backends.pytorch"}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_resources" not in path.parts)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    first = module.partition(".")[0]
    return SAME_PART.get(first, first)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import, inside functions too, but not those for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module
            yield node.lineno, node.module
            # `from fer_edge import x` may name a module.
            if node.module == "fer_edge":
                for name in node.names:
                    yield node.lineno, f"fer_edge.{name.name}"


def violations(path: Path) -> list[str]:
    module = module_of(path)
    part = part_of(module)
    found = []
    for line, name in imports(path):
        root, _, rest = name.partition(".")
        if root != "fer_edge" or not rest or rest.startswith("__"):
            continue
        other = part_of(rest)
        if other not in LEVELS or other == part or LEVELS[other] == 1:
            continue
        if LEVELS[other] >= LEVELS[part]:
            found.append(
                f"{path.name}:{line}: {part} (level {LEVELS[part]}) imports "
                f"{other} (level {LEVELS[other]})"
            )
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    module = module_of(path)
    if module in {"", "__main__"}:
        return  # the package itself resolves names lazily, __main__ is the command line
    assert part_of(module) in LEVELS, f"give {module} a level in LEVELS"
    assert violations(path) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_stays_in_its_place(path: Path) -> None:
    module = module_of(path)
    if part_of(module) in TORCH_PARTS or module in TORCH_MODULES:
        return
    for line, name in imports(path):
        root = name.partition(".")[0]
        assert root not in {"torch", "torchvision", "timm", "accelerate", "safetensors"}, (
            f"{path}:{line} imports {name}"
        )
        assert root not in {"pickle", "dill", "joblib"}, f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(path))
    assert ast.get_docstring(tree), "every module says what it is"
    assert path.stem not in {"utils", "helpers", "common", "misc"}
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, (ast.Assign, ast.AnnAssign))
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }
    if len(tree.body) > 1 and path.name != "__main__.py":
        assert "__all__" in assigned, "every module names what it exports"
        assert "from __future__ import annotations" in text


def test_the_rules_catch_what_they_forbid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that cannot fail proves nothing."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    bad = tmp_path / "data" / "bad.py"
    bad.parent.mkdir()
    bad.write_text(
        "from typing import TYPE_CHECKING\n"
        "from fer_edge.errors import UsageError\n"
        "from fer_edge.data.cache import x\n"
        "if TYPE_CHECKING:\n"
        "    from fer_edge.measure import Accuracy\n"
        "def f():\n"
        "    from fer_edge.backends import BACKENDS\n"
        "    from fer_edge import bundle\n"
    )
    assert violations(bad) == [
        "bad.py:7: data (level 2) imports backends (level 3)",
        "bad.py:8: data (level 2) imports bundle (level 2)",
    ]
