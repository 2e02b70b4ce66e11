"""``fer-edge train`` at the terminal: its messages, its errors, and how it resumes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures_processes import STRICT
from PIL import Image

from fer_edge.cli import main
from fer_edge.errors import UsageError
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Recipe, recipe_names

TINY = (
    "--data", "synthetic:160", "--epochs", "1", "--set", "model.options.widths=[8, 16]",
    "--set", "model.options.blocks=[1, 1]", "--set", "optim.batch_size=32",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FER_EDGE_DATA", raising=False)


def _train(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run the command; return its output."""
    main(["train", *words])
    captured = capsys.readouterr()
    assert captured.out == "", "training has no data for stdout"
    return captured.err


def _refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    assert ended.value.code == code
    said = capsys.readouterr().err
    assert "error: " in said
    assert "fix: " in said
    return said


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished run called ``a``, and the output of the command."""
    folder = tmp_path_factory.mktemp("trained")
    result = subprocess.run(
        [sys.executable, "-m", "fer_edge", "train", *TINY, "--name", "a"],
        cwd=folder,
        env={**os.environ, "PYTHONWARNINGS": STRICT, "FER_EDGE_DATA": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return folder / "runs", result.stderr


def test_the_learning_curves_are_a_picture(trained: tuple[Path, str]) -> None:
    with Image.open(trained[0] / "a" / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 800


def test_it_says_what_it_will_do_and_what_to_type_next(trained: tuple[Path, str]) -> None:
    runs, said = trained
    for words in (
        "run        runs/a",
        "model      compact: ",
        "million multiply-accumulates per image",
        "synthetic TRAIN to fit",
        "synthetic PUBLIC to watch",
        "1 epochs of ",
        "precision  ",
        "device     CPU",
        "time       about ",
        "images/s",
        "epoch   1/1",
        "(synthetic faces)",
        "next: fer-edge build runs/a --precision int8 --data synthetic:160",
    ):
        assert words in said, words
    assert said.index("model ") < said.index("epoch   1/1")
    assert RunFolder(runs / "a").info().status == "finished"


def test_a_finished_run_is_not_resumed(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, _ = trained
    said = _refused(capsys, "--resume", "a", "--out", str(runs))
    assert "has finished: 1 epochs, PUBLIC top-1" in said
    assert "fer-edge build" in said
    said = _refused(capsys, "--resume", "--out", str(runs))
    assert "no stopped run" in said


def test_a_name_is_used_once(trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    runs, _ = trained
    said = _refused(capsys, *TINY, "--name", "a", "--out", str(runs))
    assert "exists already; a run is never overwritten" in said


def test_resume_refuses_another_recipe(
    trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    runs, _ = trained
    for words, different in (
        (["--epochs", "9"], "different: epochs"),
        (["--set", "optim.lr=0.5"], "different: optim.lr"),
        (["--seed", "3"], "different: seed"),
        (["--recipe", "quick"], "optim.name"),
    ):
        said = _refused(capsys, "--resume", "a", "--out", str(runs), *words)
        assert "was started with another recipe" in said
        assert different in said
    said = _refused(capsys, "--resume", "a", "--name", "b", "--out", str(runs))
    assert "--name starts a new run" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "defualt"], "unknown recipe 'defualt'"),
        (["--set", "optim.lrr=1"], "unknown key 'optim.lrr'"),
        (["--set", "optim.lr"], "is not key=value"),
        (["--model", "compcat"], "unknown model 'compcat'"),
        (["--set", "model.options.width=[8]"], "unknown key 'width'"),
        (["--name", "a/b"], "not a name for a run"),
        (["--data", "nowhere.zip"], "nowhere.zip"),
        (["--resume", "nothing"], "no run or cross-validation 'nothing'"),
    ],
)
def test_a_mistake_leaves_no_run(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert message in _refused(capsys, "--data", "synthetic:160", *words)
    assert not list(tmp_path.glob("runs/*"))


def test_no_pretrained_starts_from_random_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--data", "synthetic:160", "--no-pretrained")
    assert "unknown key 'pretrained'" in _refused(capsys, *words)

    def no_start(root: Path, name: str | None, recipe: Recipe, *_: object, **__: object) -> None:
        raise UsageError(f"pretrained {recipe.model.options['pretrained']}", fix="none")

    monkeypatch.setattr("fer_edge.training.start.start_run", no_start)
    assert "pretrained True" in _refused(capsys, *words[:2], "--recipe", "vgg19")
    assert "pretrained False" in _refused(capsys, *words, "--recipe", "vgg19")


def test_data_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert "FER_EDGE_DATA" in _refused(capsys)


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--list-recipes"])
    assert capsys.readouterr().out.split() == list(recipe_names())


@pytest.mark.parametrize("module", ["torch", "accelerate", "matplotlib", "tensorboard"])
def test_a_missing_package_is_named_before_the_start(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from fer_edge import errors

    real = errors.import_module

    def missing(name: str) -> object:
        if name == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr(errors, "import_module", missing)
    said = _refused(capsys, *TINY, code=5)
    assert "pip install 'fer-edge[train]'" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_ctrl_c_saves_says_how_to_go_on_and_exits_130(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TINY, "--name", "c", "--epochs", "5000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fer_edge", "train", *words],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    history = tmp_path / "runs" / "c" / "history.csv"
    while not history.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "stopped; to continue: fer-edge train --resume runs/c" in said
    assert "Traceback" not in said
    run = RunFolder(tmp_path / "runs" / "c")
    assert run.info().status == "interrupted"
    # Its images are found again without --data; other ones are refused.
    said = _refused(capsys, "--resume", "--data", "synthetic:170")
    assert "other images" in said
