"""Run folders: made once, found again, locked while they are trained."""

from __future__ import annotations

import csv
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from fer_edge.errors import IntegrityError, UsageError
from fer_edge.provenance import DatasetInfo
from fer_edge.runs.find import newest_run
from fer_edge.runs.folder import (
    HISTORY,
    RunFolder,
    create_run,
    run_to_resume,
)
from fer_edge.runs.recipe import Recipe, load_recipe


def _run(root: Path, name: str | None, age: int = 0, *, status: str, weights: bool) -> RunFolder:
    run = create_run(root, name, Recipe(), {"synthetic": True}, "synthetic")
    run.update(status=status)
    for path in [run.path / "run.json", run.model][: 1 + weights]:
        path.touch()
        os.utime(path, (10**9 - age, 10**9 - age))
    return run


def test_a_run_knows_its_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("long", ["optim.lr=0.07"])
    run = create_run(tmp_path, "a", recipe, DatasetInfo(sha256="0"), "synthetic")
    assert run.recipe() == recipe
    assert load_recipe(run.path / "recipe.toml") == recipe
    info = run.info()
    assert (info.schema, info.name, info.status) == (1, "a", "running")
    run.update(status="failed")
    assert run.info() == msgspec.structs.replace(info, status="failed")


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    create_run(tmp_path, "a", Recipe(), DatasetInfo(), "synthetic")
    with pytest.raises(UsageError, match="exists already") as raised:
        create_run(tmp_path, "a", Recipe(), DatasetInfo(), "synthetic")
    assert "--resume" in str(raised.value.fix)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "-x", "a b"])
def test_an_unfit_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a name for a run"):
        create_run(tmp_path, name, Recipe(), DatasetInfo(), "synthetic")
    assert not list(tmp_path.iterdir())


def test_a_name_is_found_for_a_nameless_run(tmp_path: Path) -> None:
    assert create_run(tmp_path, None, Recipe(), DatasetInfo(), "synthetic").name.startswith(
        "compact-20"
    )


def test_the_newest_run_with_weights_is_taken(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no trained run") as raised:
        newest_run(tmp_path)
    assert "fer-edge train" in str(raised.value.fix)
    _run(tmp_path, "old", 20, status="finished", weights=True)
    _run(tmp_path, "new", 10, status="interrupted", weights=True)
    _run(tmp_path, "begun", 0, status="running", weights=False)
    (tmp_path / "not-a-run").mkdir()
    assert newest_run(tmp_path) == tmp_path / "new"


def test_the_newest_stopped_run_is_resumed(tmp_path: Path) -> None:
    _run(tmp_path, "older", 20, status="interrupted", weights=True)
    newer = _run(tmp_path, "newer", 10, status="running", weights=False)
    _run(tmp_path, "done", 0, status="finished", weights=True)
    assert run_to_resume(None, tmp_path).name == "newer"
    with newer.locked():
        assert run_to_resume(None, tmp_path).name == "older"
    assert run_to_resume("done", tmp_path).name == "done"
    with pytest.raises(UsageError, match="no stopped run"):
        run_to_resume(None, tmp_path / "none")


def test_a_run_is_trained_by_one_process(tmp_path: Path) -> None:
    run = _run(tmp_path, "a", status="running", weights=False)
    assert not run.is_locked
    handle = os.open(run.path / ".lock", os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert run.is_locked
    with pytest.raises(UsageError, match="another process"), run.locked():
        pass
    os.close(handle)
    assert not run.is_locked


def test_a_damaged_run_is_named(tmp_path: Path) -> None:
    run = _run(tmp_path, "a", status="running", weights=False)
    (run.path / "run.json").write_text("{")
    with pytest.raises(IntegrityError, match=r"run\.json is not JSON"):
        run.recipe()


def test_history_is_a_table(new_run: Callable[..., RunFolder]) -> None:
    run = new_run(Recipe())
    row = dict.fromkeys(HISTORY, 0.123456789) | {"epoch": 1}
    run.write_history([row, {**row, "epoch": 2}])
    with open(run.path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["epoch"] for r in rows] == ["1", "2"]
    assert rows[0]["public_top1"] == "0.123457"
