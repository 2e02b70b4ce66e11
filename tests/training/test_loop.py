"""Training end to end on a tiny network: what it writes, how it learns, when it stops."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fixtures_training import Recorder, same, weights_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from fer_edge.data import FerDataset, Split
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.data.holdout import holdout_mask
from fer_edge.errors import DataError, NumericsError, RecipeError, UsageError
from fer_edge.models.weights import load_weights, model_from_weights
from fer_edge.records import to_dict
from fer_edge.runs.folder import HISTORY, RunFolder
from fer_edge.runs.recipe import Recipe
from fer_edge.training import loop
from fer_edge.training.batches import Sources
from fer_edge.training.loop import TrainingReporter, train
from fer_edge.training.losses import cross_entropy
from fer_edge.training.session import Session
from fer_edge.training.start import InitialWeights, start_run

TinyRecipe = Callable[..., Recipe]
NewRun = Callable[..., RunFolder]


def test_a_pause_of_the_process_does_not_count_as_its_speed(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, speeds = [0.0], []

    def monotonic() -> float:
        now[0] += 0.125
        return now[0]

    class Paused(TrainingReporter):
        def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
            speeds.append(images_per_s)
            now[0] += 3600.0 * (len(speeds) == 2)

    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=monotonic))
    recipe = tiny("epochs=1")
    train(new_run(recipe), recipe, faces, reporter=Paused())
    assert len(speeds) > 3
    # The clock moves with each call, and one call more or less is not a pause.
    assert min(speeds) > max(speeds) / 4


def test_a_run_writes_what_it_promises(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny()
    run = new_run(recipe)
    recorder = Recorder()
    last = train(run, recipe, faces, reporter=recorder)

    names = {path.name for path in run.path.iterdir()} - {".lock"}
    assert names == {
        "recipe.toml", "run.json", "model.safetensors", "best.safetensors",
        "state", "history.csv", "tb",
    }  # fmt: skip
    (overview,) = recorder.overviews
    train_count = sum(faces.counts()["train"].values())
    assert (overview.images, overview.epochs, overview.batch_size) == (train_count, 2, 32)
    assert (overview.steps, overview.first_epoch, overview.first_step) == (train_count // 32, 1, 0)
    assert overview.synthetic
    assert recorder.steps == [(e, s) for e in (1, 2) for s in range(1, overview.steps + 1)]

    with open(run.path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(HISTORY)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["epoch"] for row in recorder.rows] == [1, 2]
    assert float(rows[1]["public_top1"]) == pytest.approx(last["public_top1"], abs=1e-5)

    info = run.info()
    assert info.status == "finished"
    assert to_dict(info.last) == last
    best = max(recorder.rows, key=lambda row: row["public_top1"])
    assert info.best.public_top1 == best["public_top1"]

    weights = load_weights(run.model)
    assert weights.info.epoch == 2
    assert to_dict(weights.info.dataset) == {
        "sha256": faces.sha256, "source": faces.source, "synthetic": True,
    }  # fmt: skip
    assert weights.info.recipe == recipe.to_dict()
    assert weights.info.public_top1 == last["public_top1"]
    assert load_weights(run.best).info.epoch == info.best.epoch

    events = EventAccumulator(str(run.tensorboard)).Reload()
    assert {"train/loss", "train/lr", "public/top1", "public/macro_f1", "public/loss"} == set(
        events.Tags()["scalars"]
    )


def test_reported_scores_are_those_of_the_written_weights(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny()
    run = new_run(recipe)
    last = train(run, recipe, faces)
    model, weights = model_from_weights(run.model)
    public = faces.select("public")
    with torch.inference_mode():
        logits = model(torch.from_numpy(weights.preprocessing.normalise(public.images[:, None])))
    top1 = float((logits.argmax(1).numpy() == public.labels).mean())
    assert last["public_top1"] == pytest.approx(top1)


def _stripes() -> FerDataset:
    """Seven kinds of stripes: what even a tiny network learns in a second."""
    random = np.random.default_rng(0)
    labels = (np.arange(420) % 7).astype(np.uint8)
    waves = 2.0 * np.pi * (labels // 2 + 1)[:, None] * 3 * np.arange(48) / 48
    lines = 128 + 80 * np.sin(waves + random.uniform(0, 6, (420, 1)))
    images = np.repeat(lines[:, None], 48, 1)
    images = np.where((labels % 2 == 1)[:, None, None], images.transpose(0, 2, 1), images)
    return dataset_from_rows(
        (images + random.normal(0, 10, images.shape)).clip(0, 255).astype(np.uint8),
        labels,
        np.repeat([Split.TRAIN, Split.PUBLIC], [336, 84]).astype(np.uint8),
        [f"{i:03}" for i in range(420)],
        source="stripes",
    )


def test_training_learns(tiny: TinyRecipe, new_run: NewRun) -> None:
    recipe = tiny("epochs=4", "ema.decay=0.5", "optim.lr=0.2", "augment.erase=0")
    last = train(new_run(recipe), recipe, _stripes())
    assert last["public_top1"] > 0.6, "chance is 1/7"


def test_equal_seeds_give_equal_weights_and_others_do_not(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    one, two, other = tiny("epochs=1"), tiny("epochs=1"), tiny("epochs=1", "seed=1")
    runs = [new_run(recipe, name) for recipe, name in ((one, "a"), (two, "b"), (other, "c"))]
    for run in runs:
        train(run, run.recipe(), faces)
    first, second, third = (weights_of(run) for run in runs)
    assert same(first, second)
    assert not same(first, third)


@pytest.mark.parametrize(
    "overrides",
    [
        ("optim.name=adamw", "optim.lr=0.001", "schedule.name=onecycle"),
        ("schedule.name=plateau", "loss.class_weights=true", "optim.clip_norm=0.1"),
        ("loss.mixup=0.4", "ema.decay=0", "model.options.dropout=0.2", "schedule.name=constant"),
        ("augment.fill=border", "augment.rotate=0", "augment.erase=1", "stop.monitor=macro_f1"),
        ("optim.sam=0.05", "optim.clip_norm=1", "model.options.dropout=0.2", "loss.mixup=0.2"),
    ],
)
def test_every_ingredient_trains(
    overrides: tuple[str, ...], faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny("epochs=1", *overrides)
    last = train(new_run(recipe), recipe, faces)
    assert np.isfinite(list(last.values())).all()


def test_replicas_do_not_depend_on_threads(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    """The parts of a batch are the same whether one thread makes them or two."""
    states = []
    for threads in (1, 2):
        recipe = tiny("epochs=1", "run.replicas=2", f"run.threads={threads}")
        run = new_run(recipe, f"t{threads}")
        train(run, recipe, faces)
        states.append(weights_of(run))
    assert same(*states)


def test_bf16_trains_as_asked(faces: FerDataset, tiny: TinyRecipe, new_run: NewRun) -> None:
    recipe = tiny("epochs=1", "run.precision=bf16", "run.threads=1")
    recorder = Recorder()
    run = new_run(recipe)
    train(run, recipe, faces, reporter=recorder)
    assert recorder.overviews[0].precision.startswith("bf16 (as requested")
    assert all(value.dtype != torch.bfloat16 for value in weights_of(run).values())


@pytest.mark.filterwarnings("ignore:Guards may run slower")  # Python 3.13.0
def test_compiling_trains_the_same_network(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced but run by the eager kernels: what inductor makes of it is torch's to test.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    states = []
    for choice in ("on", "off"):
        recipe = tiny("epochs=1", f"run.compile={choice}", "run.threads=1")
        run = new_run(recipe, choice)
        train(run, recipe, faces)
        states.append(weights_of(run))
    assert same(*states)


def test_an_objective_may_replace_the_cross_entropy(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    seen = []

    def objective(view: Tensor, targets: Tensor, sources: Sources) -> Callable[[Tensor], Tensor]:
        def loss(logits: Tensor) -> Tensor:
            seen.append((tuple(view.shape[1:]), tuple(logits.shape), tuple(targets.shape)))
            return cross_entropy(logits, targets)

        return loss

    recipe = tiny("epochs=1", "run.threads=1")
    plain, replaced = new_run(recipe, "plain"), new_run(recipe, "replaced")
    train(plain, recipe, faces)
    train(replaced, recipe, faces, objective=objective)
    assert set(seen) == {((1, 48, 48), (32, 7), (32, 7))}
    assert same(weights_of(plain), weights_of(replaced))


def test_an_objective_is_asked_once_however_often_a_step_asks_for_the_loss(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    asked = losses = 0

    def objective(view: Tensor, targets: Tensor, sources: Sources) -> Callable[[Tensor], Tensor]:
        nonlocal asked
        asked += 1

        def loss(logits: Tensor) -> Tensor:
            nonlocal losses
            losses += 1
            return cross_entropy(logits, targets)

        return loss

    recipe = tiny("epochs=1", "run.threads=1", "optim.sam=0.05")
    plain, counted = new_run(recipe, "plain"), new_run(recipe, "counted")
    train(plain, recipe, faces)
    train(counted, recipe, faces, objective=objective)
    assert losses == 2 * asked > 0, "the two passes of a sharpness-aware step share a teacher"
    assert same(weights_of(plain), weights_of(counted))


def test_early_stopping_stops(faces: FerDataset, tiny: TinyRecipe, new_run: NewRun) -> None:
    recipe = tiny("epochs=50", "stop.patience=1", "stop.min_delta=1", "optim.lr=0.0001")
    recorder = Recorder()
    run = new_run(recipe)
    last = train(run, recipe, faces, reporter=recorder)
    assert last["epoch"] == 2, "the first epoch is the best, the second does not beat it by 1"
    assert "has not improved for 1 epoch" in recorder.notes[-1]
    assert run.info().status == "finished"
    assert run.info().best.epoch == 1
    assert train(run, recipe, faces) == last, "and it stays stopped"


def test_a_loss_that_is_not_finite_stops_the_run(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny("epochs=3")
    calls = 0

    def objective(view: Tensor, targets: Tensor, sources: Sources) -> Callable[[Tensor], Tensor]:
        nonlocal calls
        calls += 1
        factor = float("nan") if calls == 6 else 1.0
        return lambda logits: cross_entropy(logits, targets) * factor

    recipe = tiny("epochs=3", "run.threads=1")
    run = new_run(recipe)
    with pytest.raises(NumericsError, match="step 2 of epoch 2") as raised:
        train(run, recipe, faces, objective=objective)
    assert "optim.lr" in str(raised.value.fix)
    assert run.info().status == "failed"
    assert load_weights(run.model).info.epoch == 1
    state = json.loads((run.state / "state.json").read_text())
    assert state["content"]["progress"]["epoch"] == 1


def test_a_data_set_without_public_is_refused(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    with pytest.raises(DataError, match="public"):
        train(new_run(tiny()), tiny(), faces.select("train"))


def test_a_batch_that_cannot_be_shared_is_refused(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny("run.replicas=3")
    with pytest.raises(RecipeError, match="3 replicas cannot share a batch of 32"):
        train(new_run(recipe), recipe, faces)


def test_a_run_in_training_is_left_alone(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun, tmp_path: Path
) -> None:
    run = new_run(tiny())
    with run.locked(), pytest.raises(Exception, match="another process"):
        train(run, tiny(), faces)


def test_held_out_images_are_not_trained_on(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny("data.holdout=0.1", "data.holdout_seed=3", "epochs=1")
    recorder = Recorder()
    train(new_run(recipe), recipe, faces, reporter=recorder)
    train_set = faces.select("train")
    held_out = int(holdout_mask(train_set, 0.1, 3).sum())
    assert held_out > 0
    assert recorder.overviews[0].images == len(train_set) - held_out


def test_muon_growing_views_and_wsd_run_and_resume_alike(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny(
        "optim.name=muon",
        "optim.lr=0.02",
        "schedule.name=wsd",
        "augment.start_size=32",
        "data.holdout=0.1",
    )
    whole, cut = new_run(recipe, name="whole"), new_run(recipe, name="cut")
    train(whole, recipe, faces)

    class Stop(Recorder):
        def epoch(self, row: dict[str, object]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, recipe, faces, reporter=Stop())
    train(cut, recipe, faces)
    assert same(weights_of(whole), weights_of(cut))


def test_a_run_starts_from_the_weights_it_is_given(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun, tmp_path: Path
) -> None:
    recipe = tiny("data.holdout=0.1", "epochs=1")
    first = new_run(recipe, name="first")
    train(first, recipe, faces)

    def begin(name: str, *changes: str) -> RunFolder:
        changed = tiny("data.holdout=0.1", "epochs=1", *changes)
        return start_run(
            tmp_path / "runs", name, changed, faces, "synthetic", init=InitialWeights(first.model)
        )

    second = begin("second", "seed=5")
    assert second.info().init.sha256 == load_weights(first.model).sha256
    (first.model).unlink()
    session = Session(second, second.recipe(), faces)
    session.workers.close()
    assert same(session.model.state_dict(), load_weights(second.init).state)
    assert same(session.average.model.state_dict(), load_weights(second.init).state)

    first.model.write_bytes(second.init.read_bytes())
    with pytest.raises(UsageError, match="holds compact") as raised:
        begin("other", "model.options.blocks=[2, 1]")
    assert "--model compact --set 'model.options." in str(raised.value.fix)
    with pytest.raises(UsageError, match="was trained on images that this recipe holds out"):
        begin("leak", "data.holdout_seed=1")
    other = faces.take(range(len(faces) - 1))
    with pytest.raises(UsageError, match="not to TRAIN of"):
        start_run(
            tmp_path / "runs",
            "images",
            recipe,
            other,
            "synthetic",
            init=InitialWeights(first.model),
        )
    assert not (tmp_path / "runs" / "leak").exists()

    widths = [2 * width for width in second.recipe().model.options["widths"]]
    wider = begin("wider", f"model.options.widths={widths}")
    session = Session(wider, wider.recipe(), faces)
    session.workers.close()
    before, _ = model_from_weights(first.model)
    images = torch.randn(4, 1, 48, 48)
    with torch.no_grad():
        found = session.model.eval()(images)
        torch.testing.assert_close(found, before(images), rtol=1e-4, atol=1e-4)
    train(wider, wider.recipe(), faces)
