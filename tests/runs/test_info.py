"""``run.json``, ``cv.json`` and a weights header: a wrong field is one line, the rest is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.data import load
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import FerEdgeError, IntegrityError, UsageError
from fer_edge.models.header import read_header
from fer_edge.provenance import WeightsInfo
from fer_edge.records import read_record, to_dict
from fer_edge.runs.cross_validation import CrossValidation
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.info import CrossValidationInfo, RunInfo
from fer_edge.runs.recipe import Recipe

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


SETUP = {
    **{"target": "openvino", "method": "minmax", "input": "a", "output": "b"},
    **{"operations": [], "grids": {}, "weights": {}, "ranges": {}, "bias_steps": {}, "shift": 0.0},
}


def content() -> dict[str, Any]:
    """What the writer before the records wrote."""
    row = {"epoch": 1, "lr": 0.1, "train_loss": 1.0, "images_per_s": 9.0, "seconds": 2.0}
    row |= {"public_loss": 1.5, "public_top1": 0.5, "public_macro_f1": 0.25}
    return {
        "schema": 1,
        "name": "a",
        "created": "2026-01-01T00:00:00+00:00",
        "status": "finished",
        "recipe": Recipe().to_dict(),
        "dataset": {"sha256": "0", "source": "synthetic:70:0", "synthetic": True},
        "data": "synthetic:70",
        "teachers": [{"name": "t", "path": "/t", "sha256": "1", "model": "compact", "fold": 1}],
        "best": row,
        "last": row,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": 3}, "status is 3"),
        ({"status": "done"}, "status is 'done'"),
        ({"dataset": []}, "dataset is []"),
        ({"dataset": {"resplit": {"name": "70/30"}}}, "dataset.resplit.seed is missing"),
        ({"teachers": [{"name": "t"}]}, "teachers[0].sha256 is missing"),
        ({"last": {"epoch": "1"}}, "last.epoch is '1'"),
        ({"best": {"epoch": 1}}, "best.public_loss is missing"),
        ({"recipe": None}, "recipe is None"),
        ({"qat": {"target": "openvino"}}, "qat.method is missing"),
    ],
)
def test_a_wrong_field_of_a_run_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps({**content(), **changes}))
    with pytest.raises(IntegrityError) as raised:
        RunFolder(tmp_path).info()
    assert str(raised.value).startswith(f"{path}: {message}")
    assert raised.value.fix == "train again under another --name"


def test_a_run_is_written_again_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    later = {**content(), "a later key": [1], "note": None}
    later["dataset"]["a later key"] = 1
    path.write_text(json.dumps(later))
    RunFolder(tmp_path).update(status="failed")
    assert json.loads(path.read_text()) == {**later, "status": "failed"}


def test_a_new_run_has_the_keys_of_before(tmp_path: Path) -> None:
    dataset = load("synthetic:70").info()
    run = create_run(tmp_path, "a", Recipe(), dataset, "x")
    written = json.loads((run.path / "run.json").read_text())
    assert list(written) == [key for key in content() if key != "teachers"]
    assert set(written["dataset"]) == {"sha256", "source", "synthetic"}
    assert (written["best"], written["last"]) == (None, None)


def test_the_kind_of_a_run() -> None:
    for changes, kind in (
        ({}, "trained"),
        ({"soup": [{"name": "one", "path": "/one", "sha256": "1"}]}, "soup"),
        ({"qat": SETUP}, "qat"),
    ):
        assert read_record(RunInfo, {**content(), **changes}, "run.json").kind == kind


def test_a_run_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    for name, read in (("run.json", RunFolder), ("cv.json", CrossValidation)):
        (tmp_path / name).write_text(json.dumps({**content(), "schema": 2}))
        with pytest.raises(UsageError, match="has schema 2; this fer-edge reads up to 1") as raised:
            read(tmp_path).info()
        assert raised.value.fix == "pip install -U fer-edge"


def test_no_wrong_value_is_ever_written(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    path.write_text(json.dumps(content()))
    before = path.read_bytes()
    with pytest.raises(IntegrityError, match="status is 'done'"):
        RunFolder(tmp_path).update(status="done")
    assert path.read_bytes() == before


@pytest.mark.parametrize("recipe", [{"data": 5}, {"data": {"holdout": "x"}}, {"data": []}])
def test_a_recipe_of_another_shape_is_one_line(recipe: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="the recipe's data"):
        _ = WeightsInfo(recipe=recipe).holdout
    assert WeightsInfo(recipe={"data": {"holdout": 0.1}}).holdout == (0.1, 0)
    assert WeightsInfo().holdout is None


def _problem(kind: type[Any], value: Any) -> str | None:
    try:
        read_record(kind, value, "file")
    except IntegrityError as error:
        return str(error)
    return None


@given(key=st.sampled_from([*content(), "init", "soup", "qat"]), value=ANY_JSON)
def test_any_json_in_a_field_is_read_or_named(key: str, value: Any) -> None:
    problem = _problem(RunInfo, {**content(), key: value})
    # A closed record inside names an unknown key by its whole path.
    assert problem is None or problem.startswith((f"file: {key}", f"file: unknown key '{key}."))


@given(value=ANY_JSON)
def test_any_json_is_no_traceback(value: Any) -> None:
    for kind in (RunInfo, CrossValidationInfo, WeightsInfo):
        problem = _problem(kind, value)
        assert problem is None or problem.startswith("file")


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"schema": 1}'])
def test_a_damaged_cross_validation_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "cv.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"cv\.json"):
        CrossValidation(tmp_path).info()


def weights(path: Path, **changes: Any) -> None:
    texts = {
        "schema": "1",
        "spec": '{"name": "compact"}',
        "preprocessing": '{"mean": 0.5, "std": 0.25}',
        "labels": json.dumps(EMOTIONS),
        "meta": '{"epoch": 3, "later": 1}',
    } | changes
    header = json.dumps({"__metadata__": texts}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)


def test_a_header_is_read_without_tensors(tmp_path: Path) -> None:
    weights(tmp_path / "w.safetensors")
    header = read_header(tmp_path / "w.safetensors")
    assert (header.spec.name, header.labels, header.info.epoch) == ("compact", EMOTIONS, 3)
    assert to_dict(header.info) == {"epoch": 3, "later": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "9"},
        {"meta": 3},
        {"meta": "{"},
        {"meta": '{"epoch": "x"}'},
        {"meta": '{"dataset": {"synthetic": 1}}'},
        {"meta": '{"confidence": {"temperature": "x"}}'},
        {"meta": '{"confidence": {"temperature": 0}}'},
        {"spec": "[]"},
        {"preprocessing": "{}"},
        {"labels": "7"},
    ],
)
def test_a_wrong_header_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / "w.safetensors"
    weights(path, **changes)
    with pytest.raises(FerEdgeError) as raised:
        read_header(path)
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)


def test_a_wrong_name_of_a_split_is_named() -> None:
    recorded = {"name": "70/40", "seed": 0, "duplicates_across": False, "of": "0"}
    with pytest.raises(
        IntegrityError, match=r"^file: dataset\.resplit has a wrong name: the parts"
    ):
        read_record(WeightsInfo, {"dataset": {"resplit": recorded}}, "file")
