"""A run that is stopped anywhere, in any way, ends in bitwise the same weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_training import TINY, Recorder, same, weights_of
from torch import Tensor

from fer_edge.data import FerDataset, load
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.recipe import Recipe, load_recipe, recipe_to_toml
from fer_edge.training import session
from fer_edge.training.loop import TrainingReporter, train

TinyRecipe = Callable[..., Recipe]
NewRun = Callable[..., RunFolder]

# All that has a state: momentum, average, plateau, clipping, mixup; SAM, which must have none;
# saving after every step.
EVERYTHING = (
    "epochs=3",
    "loss.mixup=0.3",
    "optim.clip_norm=1",
    "optim.sam=0.05",
    "optim.sam_from=0.4",
    "schedule.name=plateau",
    "schedule.patience=0",
    "run.save_minutes=1e-9",
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


class KillAt(TrainingReporter):
    """Dies after the n-th step."""

    def __init__(self, steps: int, how: Callable[[], None]) -> None:
        self.left, self.how = steps, how

    def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        self.left -= 1
        if self.left == 0:
            self.how()


def _die() -> None:
    raise Killed


@pytest.fixture(scope="module")
def whole(faces: FerDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of an uninterrupted run of the tiny recipe."""
    recipe = load_recipe("default", TINY)
    folder = tmp_path_factory.mktemp("whole")
    run = create_run(folder, "whole", recipe, {"synthetic": True}, "synthetic:160")
    train(run, recipe, faces)
    return weights_of(run)


@pytest.mark.parametrize(
    "overrides",
    [
        ("run.threads=2", "run.replicas=2"),
        ("run.threads=1", "model.options.dropout=0.3", "optim.name=adamw", "optim.lr=0.001"),
    ],
    ids=["replicas", "dropout-adamw"],
)
def test_kills_between_steps_change_nothing(
    overrides: tuple[str, ...], faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny(*EVERYTHING, *overrides)
    whole, cut = new_run(recipe, "whole"), new_run(recipe, "cut")
    expected = train(whole, recipe, faces)
    for steps in (1, 2, 4, 1):
        with pytest.raises(Killed):
            train(cut, recipe, faces, reporter=KillAt(steps, _die))
    last = train(cut, recipe, faces)
    assert same(weights_of(cut), weights_of(whole))
    timing = {"images_per_s", "seconds"}
    for key in expected.keys() - timing:
        assert last[key] == expected[key], key
    assert len((cut.path / "history.csv").read_text().splitlines()) == 4


@pytest.mark.parametrize("moment", ["write_weights", "save_state", "write_history"])
def test_kills_while_writing_change_nothing(
    moment: str,
    faces: FerDataset,
    tiny: TinyRecipe,
    new_run: NewRun,
    whole: dict[str, Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tiny()
    cut = new_run(recipe, "cut")
    owner: Any = session if moment == "save_state" else RunFolder
    with monkeypatch.context() as patch:
        patch.setattr(owner, moment, lambda *_: _die())
        with pytest.raises(Killed):
            train(cut, recipe, faces)
    train(cut, recipe, faces)
    assert same(weights_of(cut), whole)
    assert cut.info().status == "finished"
    assert (cut.path / "history.csv").read_text().count("\n") == 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_saves_and_goes_on(
    number: int,
    faces: FerDataset,
    tiny: TinyRecipe,
    new_run: NewRun,
    whole: dict[str, Tensor],
) -> None:
    recipe = tiny("run.save_minutes=0")
    cut = new_run(recipe, "cut")
    before = signal.getsignal(signal.SIGINT)  # a shell's background job starts with it ignored
    with pytest.raises(KeyboardInterrupt):
        train(cut, recipe, faces, reporter=KillAt(2, lambda: os.kill(os.getpid(), number)))
    assert cut.info().status == "interrupted"
    recorder = Recorder()
    train(cut, recipe, faces, reporter=recorder)
    assert (recorder.overviews[0].first_epoch, recorder.overviews[0].first_step) == (1, 2)
    assert same(weights_of(cut), whole)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_does_not_wait(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    run = new_run(tiny())
    with pytest.raises(KeyboardInterrupt):
        train(run, tiny(), faces, reporter=KillAt(1, twice))
    assert run.info().status == "running"


def test_another_recipe_or_data_set_is_refused(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    recipe = tiny()
    run = new_run(recipe)
    with pytest.raises(Killed):
        train(run, tiny("run.save_minutes=1e-9"), faces, reporter=KillAt(3, _die))
    with pytest.raises(UsageError, match=r"another recipe; different: run\.save_minutes"):
        train(run, recipe, faces)
    recipe = tiny("run.save_minutes=1e-9")
    with pytest.raises(UsageError, match="other images"):
        train(run, recipe, load("synthetic:170"))
    (next(run.state.glob("*.safetensors"))).write_bytes(b"")
    with pytest.raises(IntegrityError, match="digest differs"):
        train(run, recipe, faces)


def test_what_changes_the_last_bits_is_said(
    faces: FerDataset, tiny: TinyRecipe, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny("run.save_minutes=1e-9")
    run = new_run(recipe)
    with pytest.raises(Killed):
        train(run, recipe, faces, reporter=KillAt(3, _die))
    before = session.Session._rounding
    monkeypatch.setattr(
        session.Session, "_rounding", lambda self: {**before(self), "torch": "99.0"}
    )
    recorder = Recorder()
    train(run, recipe, faces, reporter=recorder)
    assert any("continues with 99.0" in text for text in recorder.notes)


@pytest.mark.slow
def test_sigkill_then_resume_is_bitwise(
    tmp_path: Path, faces: FerDataset, tiny: TinyRecipe, new_run: NewRun
) -> None:
    """The real thing: the command in a process of its own, killed with no chance to clean up."""
    recipe = tiny("run.save_minutes=1e-9", "run.threads=1")
    (tmp_path / "tiny.toml").write_text(recipe_to_toml(recipe))
    killer = (
        "import os, signal, sys\n"
        "from fer_edge.cli import main\n"
        "from fer_edge.training import state\n"
        "real, calls = state.write_json, 0\n"
        "def write(*a):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(*a)\n"
        "state.write_json = write\n"
        "main(sys.argv[1:])\n"
    )

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    start = ["train", "--name", "cut", "--recipe", "tiny.toml", "--data", "synthetic:160"]
    killed = run("-c", killer, *start)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = run("-m", "fer_edge", "train", "--resume", "cut")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stderr
    whole = new_run(recipe, "whole")
    train(whole, recipe, faces)
    assert same(weights_of(RunFolder(tmp_path / "runs" / "cut")), weights_of(whole))
