"""Imports go down: the layers of CONTRIBUTING, read from every file's syntax tree."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import fer_edge

PACKAGE = Path(fer_edge.__file__).parent

LEVELS: dict[str, int] = {
    "cli": 9,
    "build": 8,
    "quantize": 7,
    "deploy": 7,
    "serve": 7,
    "video": 7,
    "convert": 6,
    "report": 6,
    "analyzer": 6,
    "measure": 5,
    "classifier": 5,
    "training": 5,
    "backends": 4,
    "runs": 4,
    "bundle": 3,
    "models": 3,
    "data": 2,
    "trt": 2,
    "errors": 1,
    "oserrors": 1,
    "emotions": 1,
    "faces": 1,
    "labels": 1,
    "litert": 1,
    "files": 1,
    "preprocessing": 1,
    "paths": 1,
    "plugins": 1,
    "printable": 1,
    "version": 1,
    "pretrained": 1,
    "cpu": 1,
    "pipes": 1,
    "progress": 1,
    "records": 1,
    "provenance": 1,
    "scores": 1,
}
"""Part of the package -> its level. It may import lower levels, and level 1 whatever its own."""

MOST_FILES = 30

TORCH_PARTS = {"models", "training"}
TORCH_MODULES = {"convert.export", "backends.pytorch"}

FILES = sorted(path for path in PACKAGE.rglob("*.py") if "_resources" not in path.parts)


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    return module.partition(".")[0]


def imports(path: Path, *, for_types: bool = True) -> Iterator[tuple[int, str]]:
    """Yield (line, module) of every import: at the top, inside functions, and for types only."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if not for_types
        and isinstance(block, ast.If)
        and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module
            for name in node.names:
                # `from fer_edge.data import x` imports the module x where there is one.
                yield node.lineno, submodule(node.module, name.name) or node.module


def submodule(package: str, name: str) -> str | None:
    """Return ``package.name`` if the package has a module of that name."""
    root, *folders = package.split(".")
    if root != "fer_edge":
        return None
    place = PACKAGE.joinpath(*folders, name)
    there = place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
    return f"{package}.{name}" if there else None


def violations(path: Path) -> list[str]:
    part = part_of(module_of(path))
    found = []
    for line, name in imports(path):
        root, _, rest = name.partition(".")
        if root != "fer_edge":
            continue
        other = part_of(rest)
        if other == part and rest:
            continue
        if not rest:
            found.append(f"{path.name}:{line}: {part} imports the package itself")
        elif LEVELS[other] >= LEVELS[part] and not (LEVELS[other] == LEVELS[part] == 1):
            found.append(
                f"{path.name}:{line}: {part} (level {LEVELS[part]}) imports "
                f"{other} (level {LEVELS[other]})"
            )
    return found


def circles(files: Iterable[Path]) -> list[list[str]]:
    """Return the groups of modules that import each other in a loop, inside a folder too."""
    graph = {
        module_of(path): {
            name.partition(".")[2] for _, name in imports(path) if name.startswith("fer_edge.")
        }
        for path in files
    }
    # The sorter raises at the first circle: take the arrows of that one out and look again.
    found: list[list[str]] = []
    while True:
        try:
            TopologicalSorter(graph).prepare()
            return found
        except CycleError as error:
            loop = list(dict.fromkeys(error.args[1]))
            found.append(sorted(loop))
            for module in loop:
                graph[module] -= set(loop)


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
    for line, name in imports(path, for_types=False):
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


def test_no_module_imports_itself_through_others() -> None:
    assert circles(FILES) == []


def test_no_folder_is_a_drawer() -> None:
    """More than about twenty files in one folder are several subjects."""
    counts = {folder: len(list(folder.glob("*.py"))) for folder in {path.parent for path in FILES}}
    assert {str(f.relative_to(PACKAGE)): n for f, n in counts.items() if n > MOST_FILES} == {}


def test_the_rules_catch_what_they_forbid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that cannot fail is useless."""
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    bad = tmp_path / "data" / "bad.py"
    bad.parent.mkdir()
    (tmp_path / "cli.py").touch()
    bad.write_text(
        "from typing import TYPE_CHECKING\n"
        "from fer_edge.errors import UsageError\n"
        "from fer_edge.data.worse import x\n"
        "if TYPE_CHECKING:\n"
        "    from fer_edge.measure import Accuracy\n"
        "def f():\n"
        "    from fer_edge.backends import BACKENDS\n"
        "    from fer_edge import cli\n"
        "    from fer_edge import __version__\n"
    )
    assert violations(bad) == [
        f"bad.py:5: data (level {LEVELS['data']}) imports measure (level {LEVELS['measure']})",
        f"bad.py:7: data (level {LEVELS['data']}) imports backends (level {LEVELS['backends']})",
        f"bad.py:8: data (level {LEVELS['data']}) imports cli (level {LEVELS['cli']})",
        "bad.py:9: data imports the package itself",
    ]
    worse = tmp_path / "data" / "worse.py"
    worse.write_text("def f():\n    from fer_edge.data.bad import g\n")
    assert circles([bad, worse]) == [["data.bad", "data.worse"]]
