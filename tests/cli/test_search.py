"""``fer-edge search`` at the terminal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures_processes import STRICT

pytest.importorskip("optuna")

from fer_edge.cli import main
from fer_edge.data import FerDataset
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Recipe, load_recipe
from fer_edge.training.loop import TrainingReporter
from fer_edge.training.search import search

TINY = (
    "--data", "synthetic:160", "--epochs", "1", "--set", "model.options.widths=[8, 16]",
    "--set", "model.options.blocks=[1, 1]", "--set", "optim.batch_size=64",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FER_EDGE_DATA", raising=False)


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["search", *words])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "fix: " in said
    return said


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for training, which tests/training/test_search.py has: one epoch, no network."""

    def train(
        run: RunFolder, recipe: Recipe, data: FerDataset, *, reporter: TrainingReporter
    ) -> None:
        top1 = min(recipe.optim.lr, 0.9)
        row = {"epoch": 1, "public_top1": top1, "images_per_s": 1.0, "seconds": 1.0}
        row |= {"public_loss": 1.0, "public_macro_f1": top1}
        run.update(best=row, last=row)
        reporter.epoch(row)

    monkeypatch.setattr(search, "train", train)


@pytest.mark.usefixtures("fake")
def test_a_search_shows_its_trials_and_writes_a_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    split = ("--split", "80/10/10", "--split-seed", "2", "--allow-duplicates-across")
    main(["search", *TINY, *split, "--trials", "2", "--study", "s"])
    captured = capsys.readouterr()
    assert "NAIVE 80/10/10 split, seed 2" in " ".join(captured.out.split())
    assert "trial 0: optim.lr" in captured.err
    assert "epoch 1/1" in captured.err
    assert "the best so far" in captured.err
    assert "no importance plot: importance needs 6 trials" in captured.err
    assert "next: fer-edge train --recipe runs/s/best.toml --data synthetic:160 --split" in (
        captured.err
    )
    assert load_recipe("runs/s/best.toml").epochs == load_recipe("default").epochs
    assert "NAIVE 80/10/10 split, seed 2" in Path("runs/s/best.toml").read_text()

    main(["search", *TINY, *split, "--trials", "6", "--study", "s", "--format", "json"])
    content = json.loads(capsys.readouterr().out)
    assert [trial["number"] for trial in content["trials"]] == list(range(6))
    assert content["dataset"]["resplit"]["duplicates_across"] is True
    best = max(content["trials"], key=lambda trial: trial["value"])
    assert content["best"] == best["number"]
    assert sum(content["importance"].values()) == pytest.approx(1)
    assert Path("runs/s/importance.png").read_bytes().startswith(b"\x89PNG")
    assert load_recipe("runs/s/best.toml").optim.lr == best["values"]["optim.lr"]

    main(["search", *TINY, *split, "--trials", "0", "--study", "s", "--format", "csv"])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 7
    assert rows[0].startswith("trial,state,top1,optim.lr")

    said = _refused(capsys, *TINY, "--split", "80/10/10", "--study", "s")
    assert "the study s in runs/s/study.journal was started with another data" in said


def test_the_picture_shows_every_kind_of_parameter(tmp_path: Path) -> None:
    from PIL import Image

    from fer_edge.report.importance import importance_figure

    importance = {"lr": 0.6, "name": 0.25, "batch": 0.1, "flag": 0.05}
    trials = [
        ({"lr": 10.0**-i, "name": "ab"[i % 2], "batch": 32 * (i + 1), "flag": i > 2}, i / 10)
        for i in range(6)
    ]
    path = importance_figure(
        tmp_path / "x.png", importance, trials, title="study", score="PUBLIC top1"
    )
    with Image.open(path) as image:
        assert image.width > 1000
        assert len(image.convert("L").getcolors() or []) > 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--space", "soc"], "did you mean 'soc25'"),
        (["--set", "optim.lr=0.1"], "--set cannot fix optim.lr"),
        (["--split-seed", "1"], "need a random split"),
        (["--set", "model.name=nothing"], "unknown model 'nothing'"),
        (["--storage", "nothing://x"], "nothing://x"),
    ],
)
def test_a_mistake_is_one_line_and_begins_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = 5 if "--storage" in words else 2
    with pytest.raises(SystemExit) as ended:
        main(["search", "--data", "synthetic:160", *words])
    assert ended.value.code == code
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_worker_is_one_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in _refused(capsys, *TINY)


def test_spaces_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["search", "--list-spaces"])
    assert capsys.readouterr().out.split() == ["compact", "soc25"]


@pytest.mark.slow
def test_ctrl_c_leaves_a_study_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "--study", "s", "--epochs", "3000", "--trials", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fer_edge", "search", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": STRICT},
    )
    history = tmp_path / "runs" / "s" / "trial-0000" / "history.csv"
    while not history.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown, said = process.communicate()
    assert process.returncode == 130
    assert "to continue this study, run the same command again" in said
    assert "Traceback" not in said
    assert "interrupted" in shown
    assert "waiting" in shown
    main(["search", *words, "--trials", "0", "--format", "json"])
    trials = json.loads(capsys.readouterr().out)["trials"]
    assert [trial["state"] for trial in trials] == ["interrupted", "waiting"]
