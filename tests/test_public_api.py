"""The public API: what ``fer_edge`` exports is written down, documented, and loaded lazily."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fer_edge

LIST = Path(__file__).with_name("public_api.txt")
"""One line for each name, method and property, with its parameters."""


def members(name: str) -> Iterator[tuple[str, Any]]:
    """Yield a name and, of a class, its public methods and properties, each with its function."""
    thing = getattr(fer_edge, name)
    yield name, thing
    if not inspect.isclass(thing):
        return
    for member in sorted(dir(thing)):
        if member.startswith("_") and member != "__call__":
            continue
        found = inspect.getattr_static(thing, member)
        if issubclass(thing, BaseException) and getattr(BaseException, member, None) is found:
            continue
        if isinstance(found, classmethod | staticmethod):
            yield f"{name}.{member}", found.__func__
        elif isinstance(found, property):
            yield f"{name}.{member}", found.fget
        elif inspect.isfunction(found):
            yield f"{name}.{member}", found


def parameters(thing: Any) -> list[inspect.Parameter]:
    """Return the parameters of a call of ``thing``, without ``self``."""
    if not callable(thing) or getattr(thing, "_is_protocol", False):
        return []
    return [
        parameter.replace(annotation=inspect.Parameter.empty)
        for name, parameter in inspect.signature(thing).parameters.items()
        if name not in {"self", "cls"}
    ]


def is_property(member: str) -> bool:
    name, _, attribute = member.partition(".")
    owner = getattr(fer_edge, name)
    return bool(attribute) and isinstance(inspect.getattr_static(owner, attribute), property)


def api() -> list[str]:
    """Return the lines of the list, as the code is now."""
    lines = []
    for name in sorted(fer_edge.__all__):
        for member, thing in members(name):
            called = callable(thing) and not is_property(member)
            signature = str(inspect.Signature(parameters(thing))) if called else ""
            lines.append(f"{member}{signature}")
    return lines


def documentation(name: str, thing: Any) -> str:
    """Return all that describes a member: its own text, its class's, and its constructor's."""
    owner = getattr(fer_edge, name.partition(".")[0])
    texts = [inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        texts += [inspect.getdoc(base) or "" for base in owner.__mro__[:-1]]
        texts.append(inspect.getdoc(owner.__init__) or "")
    return "\n".join(texts)


def is_explained(constant: str) -> bool:
    """Return whether a text follows a constant's definition, or its module is about it alone."""
    module = importlib.import_module(fer_edge._HOMES.get(constant, "fer_edge.version"))
    body = ast.parse(inspect.getsource(module)).body
    if module.__all__ == [constant]:
        return bool(inspect.getdoc(module))
    return any(
        isinstance(node, ast.Assign | ast.AnnAssign)
        and ast.unparse(node).startswith(f"{constant}:")
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        for node, after in itertools.pairwise(body)
    )


EVERY = [pair for name in sorted(fer_edge.__all__) for pair in members(name)]


def test_the_exported_names_are_those_that_are_written_down() -> None:
    """A name that goes, or a parameter that changes, breaks programs: it is a decision."""
    assert api() == LIST.read_text(encoding="utf-8").splitlines(), (
        "if this is intended: python tests/test_public_api.py writes the list again"
    )


@pytest.mark.parametrize(("name", "thing"), EVERY, ids=[name for name, _ in EVERY])
def test_each_name_is_documented(name: str, thing: Any) -> None:
    """It has a text of its own, which says what each parameter is."""
    if not callable(thing):
        assert is_explained(name)
        return
    own = inspect.getdoc(thing) or ""
    assert len(own) > 20
    assert own.rstrip().endswith((".", "::")) or "\n\n" in own
    told = documentation(name, thing)
    missing = [p.name for p in parameters(thing) if not re.search(rf"\b{p.name}\b", told)]
    assert missing == []


def test_what_is_exported_is_what_is_resolved() -> None:
    assert set(fer_edge.__all__) == {*fer_edge._HOMES, "__version__"}
    assert sorted(fer_edge.__all__) == dir(fer_edge)
    for name in fer_edge.__all__:
        assert getattr(fer_edge, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'NoSuchName'"):
        fer_edge.NoSuchName  # noqa: B018


def test_type_checkers_see_the_same_names() -> None:
    source = Path(fer_edge.__file__).read_text(encoding="utf-8")
    block = source.partition("if TYPE_CHECKING:")[2].partition("\n# ")[0]
    words = set(re.findall(r"\b[A-Z]\w+\b", block))
    assert words >= set(fer_edge._HOMES)


def test_no_exported_name_needs_more_than_the_base_install() -> None:
    code = (
        "import sys\n"
        "import fer_edge\n"
        "assert 'numpy' not in sys.modules\n"
        "[getattr(fer_edge, name) for name in fer_edge.__all__]\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'cv2', 'click', 'matplotlib'}\n"
        "assert not heavy & {name.partition('.')[0] for name in sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


if __name__ == "__main__":
    LIST.write_text("\n".join(api()) + "\n", encoding="utf-8")
