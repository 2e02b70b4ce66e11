"""The search: trials shared, pruned, failed, interrupted, and the recipe that comes of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from fer_edge.data import FerDataset
from fer_edge.errors import IntegrityError, NumericsError, UnavailableError, UsageError
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Recipe, load_recipe
from fer_edge.training import loop
from fer_edge.training.search import search as search_module
from fer_edge.training.search.search import (
    MIN_FOR_IMPORTANCE,
    Search,
    SearchReporter,
    StudyOptions,
    Trial,
)
from fer_edge.training.search.space import Choice, FloatRange, Space
from fer_edge.training.search.study import is_lost, worker

SPACE = Space(
    "lr",
    {
        "optim.lr": FloatRange(low=1e-3, high=1.0, log=True),
        "optim.batch_size": Choice(choices=(32, 64)),
    },
)


class Faked:
    """Stands in for training: two epochs whose scores follow from the learning rate."""

    def __init__(self) -> None:
        self.recipes: list[Recipe] = []
        self.scores: Callable[[Recipe, int], float] = lambda recipe, epoch: (
            min(recipe.optim.lr, 0.9) * epoch / 2
        )

    def __call__(self, run: RunFolder, recipe: Recipe, data: FerDataset, *, reporter: Any) -> None:
        self.recipes.append(recipe)
        run.model.write_bytes(b"weights")
        rows = []
        for epoch in range(1, recipe.epochs + 1):
            top1 = self.scores(recipe, epoch)
            rows.append(
                {
                    "epoch": epoch,
                    "public_top1": top1,
                    "public_loss": 1 - top1,
                    "public_macro_f1": top1,
                }
            )
            best = max(rows, key=lambda row: row["public_top1"])
            run.update(best=best, last=rows[-1])
            reporter.epoch(rows[-1])


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Faked:
    faked = Faked()
    monkeypatch.setattr(search_module, "train", faked)
    return faked


@pytest.fixture
def new_search(tmp_path: Path, faces: FerDataset) -> Callable[..., Search]:
    def make(name: str = "a", recipe: Recipe | None = None, **options: Any) -> Search:
        whole = recipe or load_recipe("default", ["epochs=9"])
        options = {"pruner": "none", **options}
        epochs = options.pop("epochs", 2)
        return Search(
            tmp_path / name,
            SPACE,
            whole,
            faces,
            "synthetic:160",
            epochs=epochs,
            options=StudyOptions(**options),
        )

    return make


def test_a_search_trains_and_its_best_recipe_is_one(
    tmp_path: Path,
    faces: FerDataset,
    tiny: Callable[..., Recipe],
    new_search: Callable[..., Search],
) -> None:
    """The real training."""
    search = new_search(recipe=tiny("epochs=5"), epochs=1)
    search.run(1)
    assert [trial.state for trial in search.trials()] == ["complete"]
    best = search.best
    assert best is not None
    recipe = load_recipe(tmp_path / "a" / "best.toml")
    assert recipe.epochs == 5
    assert recipe.optim.lr == best.values["optim.lr"]
    assert recipe.optim.batch_size == best.values["optim.batch_size"]
    text = (tmp_path / "a" / "best.toml").read_text()
    assert f"the best of 1 so far, trial 0,\n# PUBLIC top1 {best.value:.4f} within 1 of" in text
    assert "SYNTHETIC faces: synthetic:160:0, official split" in text
    for trial in search.trials():
        run = RunFolder(tmp_path / "a" / f"trial-{trial.number:04d}")
        assert run.info().status == "finished"
        assert run.info().best.public_top1 == trial.value
        assert (run.path / "history.csv").is_file()
        assert not run.model.exists()
        assert not run.state.exists()


def test_stopping_between_trials_changes_nothing(
    fake: Faked, new_search: Callable[..., Search]
) -> None:
    """Also after the first random trials, where the others decide."""
    whole = new_search("whole")
    whole.run(7)
    for count in (3, 7, 7):
        new_search("parts").run(count)
    parts = new_search("parts").trials()
    assert [trial.values for trial in parts] == [trial.values for trial in whole.trials()]
    assert len(parts) == 7
    other = new_search("other", seed=1)
    other.run(1)
    assert other.trials()[0].values != parts[0].values


def test_what_goes_wrong_is_a_failed_trial_with_its_reason(
    fake: Faked, new_search: Callable[..., Search]
) -> None:
    def scores(recipe: Recipe, epoch: int) -> float:
        if len(fake.recipes) == 2:
            raise NumericsError("the loss is nan at step 3 of epoch 1")
        return 0.5

    fake.scores = scores
    search = new_search()
    told: list[Trial] = []

    class Told(SearchReporter):
        def trial_ended(self, trial: Trial) -> None:
            told.append(trial)

    search.run(3, reporter=Told())
    assert [trial.state for trial in told] == ["complete", "failed", "complete"]
    assert told[1].reason == "the loss is nan at step 3 of epoch 1"
    assert told[1].value is None
    assert len(search.trials()) == 3


def test_a_loss_that_is_no_number_fails_the_trial(
    tiny: Callable[..., Recipe], new_search: Callable[..., Search], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the real training, where the last step of an epoch breaks the weights."""
    broken = {"loss": float("nan"), "top1": 0.1, "macro_f1": 0.1}
    monkeypatch.setattr(loop, "score", lambda *args: broken)
    search = new_search(recipe=tiny(), epochs=1)
    search.run(1)
    (trial,) = search.trials()
    assert trial.state == "failed"
    assert "PUBLIC's loss is nan after epoch 1" in trial.reason
    assert RunFolder(search.folder / "trial-0000").info().status == "failed"


def test_a_search_in_which_all_fails_ends(fake: Faked, new_search: Callable[..., Search]) -> None:
    def scores(recipe: Recipe, epoch: int) -> float:
        raise OSError("no space left on device")

    fake.scores = scores
    search = new_search()
    with pytest.raises(OSError, match="no space left"):
        search.run(10)
    assert [trial.state for trial in search.trials()] == ["failed"] * 3
    assert search.write_best() is None


def test_an_interrupted_trial_is_tried_again(
    fake: Faked, new_search: Callable[..., Search]
) -> None:
    def scores(recipe: Recipe, epoch: int) -> float:
        if len(fake.recipes) == 2 and epoch == 2:
            raise KeyboardInterrupt
        return 0.5

    fake.scores = scores
    search = new_search()
    with pytest.raises(KeyboardInterrupt):
        search.run(3)
    states = [trial.state for trial in search.trials()]
    assert states == ["complete", "interrupted", "waiting"]
    assert search.write_best() is not None
    again = new_search()
    again.run(3)
    first, stopped, repeated, last = again.trials()
    assert (repeated.state, last.state) == ("complete", "complete")
    assert repeated.values == stopped.values
    assert repeated.values != first.values
    assert sum(trial.counts for trial in again.trials()) == 3


def test_a_killed_workers_trial_is_tried_again(
    fake: Faked, new_search: Callable[..., Search]
) -> None:
    search = new_search()
    killed = search.study.ask()
    died = subprocess.Popen([sys.executable, "-c", ""])
    died.wait()
    host, mine, _ = worker().rsplit(" ", 2)
    killed.set_user_attr("worker", f"{host} {died.pid} 1")
    rate = killed.suggest_float("optim.lr", 1e-3, 1.0, log=True)
    alive = search.study.ask()
    alive.set_user_attr("worker", worker())
    assert mine == str(os.getpid())
    search.run(3)
    states = {trial.number: trial.state for trial in search.trials()}
    assert states[killed.number] == "interrupted"
    assert states[alive.number] == "running"
    repeated = search.trials()[2]
    assert (repeated.state, repeated.values["optim.lr"]) == ("complete", rate)
    assert sum(trial.counts for trial in search.trials()) == 3
    assert search.trials()[0].reason == "its process died"


def test_a_trial_that_kills_its_worker_each_time_is_given_up(
    fake: Faked, new_search: Callable[..., Search]
) -> None:
    search = new_search()
    for _ in range(3):
        killed = search.study.ask()
        killed.set_user_attr("worker", worker().rsplit(" ", 1)[0] + " 1")
        killed.suggest_float("optim.lr", 1e-3, 1.0, log=True)
        search._reclaim()
    states = [trial.state for trial in search.trials()]
    assert states == ["interrupted"] * 3


def test_another_machines_worker_is_given_up_after_a_long_silence(
    new_search: Callable[..., Search],
) -> None:
    trial = new_search().study.ask()
    trial.set_user_attr("worker", "elsewhere 1 1")
    frozen = trial.study.get_trials(deepcopy=False)[0]
    assert not is_lost(frozen)
    trial.set_user_attr("beat", frozen.datetime_start.timestamp() - 3600)
    assert is_lost(trial.study.get_trials(deepcopy=False)[0])


def test_trials_that_promise_little_are_ended_early(
    fake: Faked, new_search: Callable[..., Search]
) -> None:
    fake.scores = lambda recipe, epoch: (0.1 if len(fake.recipes) > 6 else 0.5) + epoch / 100
    search = new_search(pruner="median", epochs=4)
    search.run(8)
    *first, seventh, eighth = search.trials()
    assert {trial.state for trial in first} == {"complete"}
    assert (seventh.state, seventh.epochs, seventh.value) == ("pruned", 2, 0.1 + 0.02)
    assert eighth.state == "pruned"
    run = RunFolder(search.folder / f"trial-{seventh.number:04d}")
    assert run.info().status == "pruned"
    best = search.best
    assert best is not None
    assert best.state == "complete"


def test_hyperband_prunes_too(fake: Faked, new_search: Callable[..., Search]) -> None:
    fake.scores = lambda recipe, epoch: 0.5 - len(fake.recipes) / 100
    search = new_search(pruner="hyperband", epochs=8)
    search.run(8)
    assert "pruned" in {trial.state for trial in search.trials()}


def test_no_trial_begins_after_the_time_is_up(
    fake: Faked, new_search: Callable[..., Search]
) -> None:
    search = new_search()
    search.run(5, seconds=0)
    assert search.trials() == []


def test_the_loss_is_minimised(fake: Faked, new_search: Callable[..., Search]) -> None:
    search = new_search(recipe=load_recipe("default", ["stop.monitor='loss'"]))
    search.run(4)
    best = search.best
    assert best is not None
    assert best.value == min(trial.value or 9 for trial in search.trials())


def test_two_studies_are_not_mixed(
    fake: Faked, new_search: Callable[..., Search], faces: FerDataset, tmp_path: Path
) -> None:
    new_search()
    with pytest.raises(UsageError, match="started with another recipe") as raised:
        new_search(recipe=load_recipe("long"))
    assert "--study" in str(raised.value.fix)
    # How the machine is used is a worker's own affair.
    new_search(recipe=load_recipe("default", ["epochs=9", "run.threads=1"]))
    with pytest.raises(UsageError, match="started with another space"):
        Search(
            tmp_path / "a",
            Space("lr", {"optim.lr": SPACE.parameters["optim.lr"]}),
            load_recipe("default", ["epochs=2"]),
            faces,
            "synthetic:160",
        )
    with pytest.raises(UsageError, match="started with another recipe and data"):
        Search(
            tmp_path / "a",
            SPACE,
            load_recipe("default"),
            faces.take(range(100)),
            "synthetic:160",
        )


def test_importance_needs_trials_that_differ(
    fake: Faked, new_search: Callable[..., Search]
) -> None:
    search = new_search()
    search.run(MIN_FOR_IMPORTANCE - 1)
    with pytest.raises(UsageError, match=f"and there are {MIN_FOR_IMPORTANCE - 1}"):
        search.importance()
    search.run(12)
    importance = search.importance()
    assert next(iter(importance)) == "optim.lr"
    assert importance["optim.lr"] > 0.7
    assert sum(importance.values()) == pytest.approx(1)
    fake.scores = lambda recipe, epoch: 0.5
    same = new_search("same")
    same.run(MIN_FOR_IMPORTANCE)
    with pytest.raises(UsageError, match="scored the same"):
        same.importance()


def test_workers_share_a_database(
    fake: Faked, new_search: Callable[..., Search], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'study.db'}"
    one, two = (new_search(storage=url, name="shared") for _ in range(2))
    one.run(3)
    two.run(5)
    assert [trial.state for trial in one.trials()] == ["complete"] * 5
    one.run(5)
    assert len(two.trials()) == 5
    assert len({json.dumps(trial.values) for trial in two.trials()}) == 5
    for search in (one, two):
        search.study._storage.remove_session()
        search.study._storage._backend.engine.dispose()


@pytest.mark.parametrize(
    ("storage", "error", "message"),
    [
        ("nothing://host/name", UnavailableError, "nothing://host/name"),
        ("sqlite:////no/such/folder/x.db", UnavailableError, "unable to open"),
        ("postgresql+none://me:secret@host/name", UnavailableError, "://me:\\*\\*\\*@host"),
        ("/proc/none/study", UsageError, "cannot be used: /proc/none: there is no such"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named(
    storage: str, error: type[Exception], message: str, new_search: Callable[..., Search]
) -> None:
    with pytest.raises(error, match=message) as raised:
        new_search(storage=storage)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_no_journal_is_refused(
    new_search: Callable[..., Search], tmp_path: Path
) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"SQLite format 3\0\n\xff\n")
    with pytest.raises(IntegrityError, match="not the journal of a study"):
        new_search(storage=str(path))
