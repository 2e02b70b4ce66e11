"""The rows of the reports: training within a time limit, collecting, and the table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reproduction
import reproduction_results
import torch
from reproduction_rows import ROWS, Row, find_row, row_of
from reproduction_table import table

from fer_edge.data import FerDataset, Resplit, duplicate_mask
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.data.resplitting import apply_resplit
from fer_edge.errors import UsageError
from fer_edge.measure import proof as proof_module
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.models.reference import reference_from_weights
from fer_edge.provenance import DatasetInfo
from fer_edge.records import read_record
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import load_recipe

SMALL = ("model.options.widths=[4,8]", "model.options.hidden=[8]", "optim.batch_size=64")
FEW, ENOUGH_TO_CALIBRATE = "synthetic:210:3", "synthetic:700:3"
TINY = Row("tiny", "B", "A tiny CNN", "soc25-baseline", 0.57, changes=SMALL)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Row:
    monkeypatch.setitem(reproduction.ROWS, "tiny", TINY)
    return TINY


def run(folder: Path, *words: str, data: str = FEW) -> int:
    head = [words[0], "--results", str(folder / "results")]
    if words[0] == "run":
        head += ["--data", data, "--out", str(folder / "runs")]
    return reproduction.main([*head, *words[1:]])


def result(folder: Path, name: str = "tiny") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "results" / f"{name}.json").read_text())
    return content


def test_the_rows_are_the_reports() -> None:
    reported = {row.name: row.reported for row in ROWS.values() if row.engines}
    assert reported == {
        "pytorch-cnn": 0.67,
        "soc25-baseline": 0.57,
        "soc25-tuned": None,
        "soc25-resnet18": 0.62,
        "conv-blocks": 0.7023,
        "vgg19": 0.6633,
        "vgg19-random": 0.6633,
        "emotion-cnn": 0.5826,
        "emotion-cnn-filters": 0.5972,
        "filter-resnet": 0.5313,
        "cbam": 0.6218,
        "mini-xception": 0.66,
    }
    for row in ROWS.values():
        recipe = load_recipe(row.recipe, row.changes)
        reproduction.check_schedule(recipe)  # each takes a time limit
        assert row.reported is not None or row.said or not row.engines


@pytest.mark.parametrize(
    "row", [row for row in ROWS.values() if not row.folds], ids=lambda r: r.name
)
def test_a_run_is_known_by_its_recipe_and_split(row: Row) -> None:
    recipe = load_recipe(row.recipe, [*row.changes, "epochs=2", "seed=7", "run.threads=1"])
    described: dict[str, Any] = {}
    if row.split != "official":
        described["resplit"] = Resplit(row.split, 3, row.naive, "0" * 64).to_dict()
    assert row_of(recipe, read_record(DatasetInfo, described, "test")) == row


def test_another_recipe_is_no_row() -> None:
    with pytest.raises(UsageError, match="no row has the recipe") as caught:
        row_of(load_recipe("cbam", ["optim.lr=0.5"]), DatasetInfo())
    assert "--row NAME" in str(caught.value.fix)
    with pytest.raises(UsageError, match="unknown row 'cbm'"):
        find_row("cbm")


def test_a_time_limit_ends_at_an_epoch_and_more_time_goes_on(
    tiny: Row,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tmp_path, "run", "tiny", "--minutes", "1e-6", "--no-engines") == 0
    first = result(tmp_path)
    assert first["epochs"] == {"run": 1, "of": 20, "stopped": "time limit"}
    assert first["data"] == {
        "source": FEW,
        "sha256": first["data"]["sha256"],
        "synthetic": True,
        "split": "official",
    }
    assert first["last"]["epoch"] == 1
    assert RunFolder(tmp_path / "runs/tiny").info().status == "interrupted"
    # A row that has a result is left alone.
    assert run(tmp_path, "run", "tiny", "--no-engines") == 0
    assert result(tmp_path) == first
    assert "--more continues" in capsys.readouterr().err
    # Its time is used up; with a little more, another epoch.
    assert run(tmp_path, "run", "tiny", "--minutes", "1e-6", "--more", "--no-engines") == 0
    assert result(tmp_path)["epochs"]["run"] == 1
    spent = first["last"]["seconds"] / 60
    minutes = str(2.5 * spent)
    assert run(tmp_path, "run", "tiny", "--minutes", minutes, "--more", "--no-engines") == 0
    assert result(tmp_path)["epochs"]["run"] > 1
    # Started over, with fewer epochs. What stops it leaves the result as it was.
    before = result(tmp_path)
    with monkeypatch.context() as stopped:
        stopped.setattr(reproduction, "train_row", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(tmp_path, "run", "tiny", "--again", "--no-engines")
    assert result(tmp_path) == before
    assert run(tmp_path, "run", "tiny", "--more", "--no-engines") == 2
    assert "the run of tiny is not in" in capsys.readouterr().err
    assert result(tmp_path) == before
    assert run(tmp_path, "run", "tiny", "--epochs", "1", "--again", "--no-engines") == 0
    again = result(tmp_path)
    assert again["epochs"] == {"run": 1, "of": 20, "stopped": "time limit"}
    assert RunFolder(tmp_path / "runs/tiny").info().status == "finished"


def test_a_schedule_that_must_end_takes_no_time_limit() -> None:
    with pytest.raises(UsageError, match="cosine schedule") as caught:
        reproduction.check_schedule(load_recipe("default"))
    assert "--epochs" in str(caught.value.fix)


def test_engines_are_built_timed_and_collected_once(
    tiny: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = {"int8": LatencySamples((np.full(9, 1),)), "fp32": LatencySamples((np.full(9, 2),))}
    monkeypatch.setattr(proof_module, "time_backends", lambda *engines, **options: twice)
    fast = LatencyProtocol(
        warmup_s=0, warmup_queries=1, measure_s=0.001, min_queries=3, max_queries=9, repeats=2
    )
    monkeypatch.setattr(reproduction, "bench_protocol", lambda: fast)
    words = ["run", "tiny", "--epochs", "1", "--targets", "onnxruntime"]
    assert run(tmp_path, *words, data=ENOUGH_TO_CALIBRATE) == 0
    found = result(tmp_path)
    engines = {(e["backend"], e["precision"]): e for e in found["engines"]}
    for key in (("pytorch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8")):
        assert engines[key]["p50_ms"] > 0
        assert engines[key]["n"] == 70
    gates = {(gate["precision"], gate["target"]): gate for gate in found["gates"]}
    assert gates["int8", "onnxruntime"]["top1"] == engines["onnxruntime", "int8"]["top1"]
    assert found["cost"]["parameters"] > 0

    monkeypatch.setattr(reproduction, "bench_engines", lambda *a, **k: pytest.fail("timed again"))
    assert run(tmp_path, *words, "--more", data=ENOUGH_TO_CALIBRATE) == 0
    path = str(tmp_path / "runs/tiny")
    assert run(tmp_path, "collect", path) == 0
    assert result(tmp_path)["engines"] == found["engines"]

    assert run(tmp_path, "table", "--out", str(tmp_path / "r.md")) == 0
    text = (tmp_path / "r.md").read_text()
    assert "SYNTHETIC" in text
    (line,) = (line for line in text.splitlines() if line.startswith("| B | A tiny CNN"))
    assert "| 57.00 |" in line
    assert "1 of 20, time limit" in line
    (line,) = (line for line in text.splitlines() if line.startswith("| tiny"))
    assert "not built" in line  # for OpenVINO and TensorRT

    # Trained further without engines: those of the weights before are not shown beside the new.
    weights = reproduction.weights_of(RunFolder(tmp_path / "runs/tiny"))
    weights.write_bytes(weights.read_bytes() + b" ")
    assert run(tmp_path, "collect", path) == 0
    assert result(tmp_path)["engines"] == []


def test_folds_have_a_mean_and_a_spread(tiny: Row, tmp_path: Path, faces: FerDataset) -> None:
    folds = replace(tiny, name="tiny-2-folds", folds=2, engines=False, reported=None)
    with pytest.raises(UsageError, match="not known yet"):
        reproduction._epochs_per_fold(replace(folds, recipe="unknown"), load_recipe("cbam"), 5)
    path = reproduction.train_folds_of(folds, faces, FEW, tmp_path, minutes=0, epochs=1)
    content = reproduction_results.collect_folds(path, folds)
    assert content["epochs"] == {"run": 1, "of": 20, "stopped": "time limit"}
    assert len(content["folds"]) == 2
    text = table([folds], {"tiny-2-folds": content})
    mean = f"{100 * content['summary']['top1']['mean']:.2f} ± "
    assert mean in text

    saved = json.loads((path / "cv.json").read_text())
    saved["recipe"]["epochs"] = 5  # than which a fold has fewer
    (path / "cv.json").write_text(json.dumps(saved))
    assert reproduction_results.collect_folds(path, folds)["epochs"]["stopped"] == "early stopping"


def test_a_naive_row_is_also_scored_without_copies(tmp_path: Path, faces: FerDataset) -> None:
    images = faces.images.copy()
    images[1:60:2] = images[:60:2]
    twice = dataset_from_rows(images, faces.labels, faces.split, faces.ids, source=FEW)
    naive = replace(TINY, name="tiny-naive", split="70/30", naive=True, engines=False)
    run = reproduction.train_row(naive, twice, FEW, tmp_path, minutes=0, epochs=1)
    content = reproduction_results.collect_run(run, naive, twice)
    without = content["without_copies"]

    split = apply_resplit(Resplit("70/30", duplicates_across=True), twice)
    tests = split.select("public")
    fresh = ~duplicate_mask(tests, split.select("train"))
    assert 0 < without["n"] == fresh.sum() < without["of"] == len(tests)
    model, _ = reference_from_weights(reproduction_results.weights_of(run))
    with torch.no_grad():
        answers = model(torch.from_numpy(tests.images[:, None])).argmax(1).numpy()
    right = answers == tests.labels
    assert without["best_top1"] == pytest.approx(right[fresh].mean())
    assert without["best_top1_of_all"] == pytest.approx(right.mean())
    assert content["best"]["public_top1"] == pytest.approx(right.mean(), abs=1.5 / len(tests))

    assert f"of the {without['n']:,} whose pixels" in table([naive], {"tiny-naive": content})
    official = replace(naive, naive=False)
    assert "without_copies" not in reproduction_results.collect_run(run, official, twice)


def test_the_table_says_what_is_missing_what_is_naive_and_why_int8_failed() -> None:
    rows = [ROWS["cbam"], ROWS["vgg19"], ROWS["vgg19-random"], ROWS["soc25-baseline-naive"]]
    scores = {"epoch": 3, "public_top1": 0.6, "public_macro_f1": 0.5}
    gate = {"precision": "int8", "target": "onnxruntime", "passed": False, "top1": 0.58}
    gate |= {"reason": "top-1 60.00% -> 58.00%", "attempts": 4, "use_instead": "fp32"}
    gate |= {"costliest": ["blocks.0/Conv"], "excluded": [], "flips": None}
    one: dict[str, Any] = {
        "kind": "run",
        "data": {"synthetic": False, "split": "official"},
        "epochs": {"run": 3, "of": 20, "stopped": "early stopping"},
        "minutes": 12.0,
        "machine": "a CPU",
        "monitor": "top1",
        "last": scores,
        "best": scores,
        "engines": [],
        "gates": [],
    }
    engine = {"backend": "onnxruntime", "precision": "fp32", "status": "ok", "p50_ms": 2.5}
    plan = {"backend": "tensorrt", "precision": "", "status": "unavailable", "note": "no driver"}
    cost = {"parameters": 5_106_185, "macs": 96_713_888}
    int8 = {"backend": "onnxruntime", "precision": "int8", "status": "unavailable"}
    int8["note"] = "the bundle has no int8"
    random = {**one, "engines": [engine, int8, plan], "gates": [gate], "cost": cost}
    random["reference"] = {"top1": 0.6}
    naive = {**one, "data": {"synthetic": False, "split": "NAIVE 80/10/10 split, seed 0"}}
    text = table(rows, {"vgg19-random": random, "soc25-baseline-naive": naive})
    assert "not run yet: `run cbam`" in text
    assert "run vgg19`" not in text  # the row that could be run fills it
    assert "-6.33" in text
    assert "3 of 20, early stopping" in text
    assert "58.00, FAILED" in text
    assert "failed its gate after 4 attempts: top-1 60.00% -> 58.00%" in text
    assert "costliest layers: blocks.0/Conv; fp32 is used instead" in text
    assert "tensorrt: no driver" in text
    assert "| 2.50 | - (1) |" in text
    assert "the bundle has no int8" not in text, "the gate that failed is the reason"
    assert "**NAIVE 80/10/10 split, seed 0**" in text
    assert "which can raise the accuracy" in text
    assert "Search" not in text


def test_the_table_has_the_trials_of_saved_searches(tmp_path: Path) -> None:
    trial = {"number": 0, "state": "complete", "value": 1.5, "epochs": 2, "seconds": 80.4}
    trials = [
        {**trial, "values": {"optim.lr": 0.00123456, "model.name": "compact"}},
        {**trial, "number": 1, "values": {"optim.lr": 0.1}, "state": "failed", "value": None},
    ]
    found = {"study": "s", "monitor": "loss", "epochs": 2, "best": 0, "trials": trials}
    found |= {"importance": {"optim.lr": 1.0}, "dataset": {"synthetic": False}}
    (tmp_path / "searches").mkdir()
    (tmp_path / "searches" / "s-cpu.json").write_text(json.dumps(found))
    text = table([], {}, reproduction_results.searches(tmp_path))
    assert "## Search: s" in text
    assert "`s-cpu.json`" in text, "which names the machine"
    assert "| trial | loss | `optim.lr` | `model.name` | epochs | seconds | state |" in text
    assert "| 0 | 1.5000 | 0.001235 | compact | 2 | 80 | **best** |" in text
    assert "| 1 | - | 0.1 | - | 2 | 80 | failed |" in text
    assert text.endswith("Importance (fANOVA): optim.lr 100%.\n")
