"""Cross-validation: a run per fold, kept when finished, resumed where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from fixtures_training import Recorder, same, weights_of

from fer_edge.data import FerDataset
from fer_edge.errors import UsageError
from fer_edge.models.weights import load_weights
from fer_edge.records import to_dict
from fer_edge.runs.cross_validation import (
    CrossValidation,
    cross_validation_to_resume,
    summarise,
)
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.info import FoldResult
from fer_edge.runs.recipe import Recipe, load_recipe
from fer_edge.training.folds import create_cross_validation, train_folds
from fer_edge.training.loop import TrainingReporter
from fer_edge.training.session import RunOverview


class PerFold(TrainingReporter):
    """A recorder for each fold; stops training, as Ctrl-C does, after one fold's first epoch."""

    def __init__(self, stop_in: str) -> None:
        self.recorders: list[Recorder] = []
        self._splits: list[str] = []
        self._stop_in = stop_in

    def note(self, text: str) -> None:
        self._splits.append(text)

    def overview(self, overview: RunOverview) -> None:
        self.recorders.append(Recorder())
        self.recorders[-1].overview(overview)
        assert len(self._splits) == len(self.recorders)

    def epoch(self, row: dict[str, Any]) -> None:
        self.recorders[-1].epoch(row)
        if self._stop_in and self._stop_in in self._splits[-1]:
            raise KeyboardInterrupt


def _train(validation: CrossValidation, faces: FerDataset, stop_in: str = "") -> list[Recorder]:
    folds = PerFold(stop_in)
    train_folds(validation, faces, reporter=folds)
    return folds.recorders


def _start(root: Path, recipe: Recipe, faces: FerDataset, name: str = "cv") -> CrossValidation:
    return create_cross_validation(root, name, recipe, faces, "synthetic:160", count=2, seed=3)


def test_stopped_folds_go_on_to_the_weights_of_undisturbed_ones(
    tmp_path: Path, faces: FerDataset, tiny: Callable[..., Recipe]
) -> None:
    recipe = tiny()
    whole = _start(tmp_path, recipe, faces, "whole")
    first, second = _train(whole, faces)
    info = whole.info()
    assert info.status == "finished"
    assert (info.folds, info.seed, info.duplicates_across) == (2, 3, False)
    assert [row.fold for row in info.results] == ["fold-1", "fold-2"]
    for row, listener in zip(info.results, (first, second)):
        assert row.top1 == listener.rows[-1]["public_top1"]
        assert row.epochs == 2
    top1 = [row.top1 for row in info.results]
    assert info.summary["top1"].mean == pytest.approx(np.mean(top1))
    assert info.summary["top1"].sd == pytest.approx(np.std(top1, ddof=1))

    # Each fold's run says which split it was trained on, and so do its weights.
    for number, run in enumerate(whole.runs, 1):
        described = run.info().dataset
        assert described.resplit.name == f"fold {number} of 2"
        assert described.resplit.of == faces.sha256 == info.dataset.sha256
        assert load_weights(run.model).info.dataset == described
    assert sum(listener.overviews[0].public_images for listener in (first, second)) == len(
        faces.select("train")
    )

    stopped = _start(tmp_path, recipe, faces, "stopped")
    with pytest.raises(KeyboardInterrupt):
        _train(stopped, faces, "fold 2 of 2")
    assert stopped.info().status == "running"
    assert [row.fold for row in stopped.info().results] == ["fold-1"]
    assert stopped.info().summary is None
    kept = stopped.runs[0].model.stat().st_mtime_ns
    (listener,) = _train(stopped, faces)
    assert listener.overviews[0].first_epoch == 2
    assert stopped.runs[0].model.stat().st_mtime_ns == kept
    for one, two in zip(whole.runs, stopped.runs):
        assert same(weights_of(one), weights_of(two))
    assert stopped.info().summary == info.summary
    assert _train(stopped, faces) == []

    # A kill may fall between a fold's folder and its run.json.
    shutil.rmtree(stopped.runs[1].path)
    stopped.runs[1].path.mkdir()
    assert len(_train(stopped, faces)) == 1
    assert stopped.info().summary == info.summary


def test_other_images_are_refused(
    tmp_path: Path, faces: FerDataset, tiny: Callable[..., Recipe]
) -> None:
    validation = _start(tmp_path, tiny(), faces)
    with pytest.raises(UsageError, match="started with other images"):
        _train(validation, faces.take(range(100)))
    with RunFolder(validation.path).locked(), pytest.raises(UsageError, match="by another process"):
        _train(validation, faces)
    assert not validation.runs[0].path.exists()


def test_a_mistake_leaves_no_folder(tmp_path: Path, faces: FerDataset) -> None:
    for recipe, count, message in (
        (load_recipe("default", ["model.name=nothing"]), 2, "unknown model"),
        (load_recipe("default"), 101, "2 to 100 folds"),
    ):
        with pytest.raises(UsageError) as raised:
            create_cross_validation(tmp_path, "cv", recipe, faces, "synthetic", count=count)
        assert message in f"{raised.value} {raised.value.fix}"
    assert not list(tmp_path.iterdir())


def test_the_newest_unfinished_is_resumed(tmp_path: Path, faces: FerDataset) -> None:
    recipe = load_recipe("default")
    assert cross_validation_to_resume("", tmp_path) is None
    validation = _start(tmp_path, recipe, faces)
    found = cross_validation_to_resume("", tmp_path)
    assert found == validation
    assert cross_validation_to_resume("cv", tmp_path) == validation
    assert cross_validation_to_resume(str(validation.path), Path("nowhere")) == validation
    run = create_run(tmp_path, "later", recipe, faces.info(), "synthetic")
    assert cross_validation_to_resume("", tmp_path) is None
    assert cross_validation_to_resume("later", tmp_path) is None
    run.update(status="finished")
    assert cross_validation_to_resume("", tmp_path) == validation
    content = validation.info()
    (validation.path / "cv.json").write_text(json.dumps({**to_dict(content), "status": "finished"}))
    assert cross_validation_to_resume("", tmp_path) is None


def test_one_fold_has_no_deviation() -> None:
    scores = {"top1": 0.5, "macro_f1": 0.4, "loss": 1.0}
    best = {f"best_{name}": value for name, value in scores.items()}
    result = FoldResult(fold="fold-1", epochs=2, best_epoch=1, **scores, **best)
    assert summarise([result]) is None
    two = summarise([result, msgspec.structs.replace(result, top1=0.7)])
    assert two is not None
    assert (two["top1"].mean, two["top1"].sd) == pytest.approx((0.6, 0.2 / 2**0.5))
    assert two["loss"].sd == 0
