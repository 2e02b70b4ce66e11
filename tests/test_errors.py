"""The error tree: exit codes, fixes, and the missing-extra line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fer_edge import errors
from fer_edge.errors import FerEdgeError, MissingExtraError, RecipeError, require, unknown


def _tree() -> dict[str, type[FerEdgeError]]:
    found: dict[str, type[FerEdgeError]] = {}
    waiting = [FerEdgeError]
    while waiting:
        cls = waiting.pop()
        found[cls.__name__] = cls
        waiting += [sub for sub in cls.__subclasses__() if sub.__module__ == errors.__name__]
    return found


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn = dict(re.findall(r"(\w+Error)\s+(\d)\s", errors.__doc__ + " "))
    assert drawn == {name: str(cls.exit_code) for name, cls in _tree().items()}


def test_all_lists_every_error() -> None:
    assert set(errors.__all__) == {
        *_tree(),
        "first_line",
        "of_signal_handler",
        "require",
        "unknown",
    }


def test_a_missing_extra_names_the_exact_pip_line() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("fer_edge_no_such_module", "openvino")
    assert caught.value.exit_code == 5
    assert caught.value.fix == "pip install 'fer-edge[openvino]'"
    assert "fer_edge_no_such_module" in str(caught.value)


def test_a_missing_submodule_of_a_missing_package_is_a_missing_extra() -> None:
    with pytest.raises(MissingExtraError):
        require("fer_edge_no_such_module.part", "train")


def test_a_package_broken_inside_keeps_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "installed_but_broken.py").write_text("import something_it_lacks\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_it_lacks"):
        require("installed_but_broken", "train")


def test_an_unknown_name_suggests_the_most_similar_or_all() -> None:
    error = unknown("key", "lr", ["epochs", "optim.lr"], where="a.toml", error=RecipeError)
    assert type(error) is RecipeError
    assert str(error) == "a.toml: unknown key 'lr'"
    assert error.fix == "did you mean 'optim.lr'?"
    assert unknown("model", "compcat", ["vgg", "compact"]).fix == "did you mean 'compact'?"
    error = unknown("recipe", "zzz", ["default", "quick"], or_else="the path of a TOML file")
    assert str(error) == "unknown recipe 'zzz'"
    assert error.fix == "choose from: default, quick, or give the path of a TOML file"
