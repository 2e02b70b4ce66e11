"""Other splits at the terminal: train, resume, fold, then build, verify and bench on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.data import Resplit, apply_resplit, load
from fer_edge.models.weights import load_weights
from fer_edge.report import training_display
from fer_edge.runs.folder import RunFolder

TINY = (
    "--epochs", "1", "--set", "model.options.widths=[8, 16]",
    "--set", "model.options.blocks=[1, 1]", "--set", "optim.batch_size=32",
)  # fmt: skip
FACES = ("--data", "synthetic:160")


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_display, "draw_histories", lambda histories, path: path.touch())
    monkeypatch.delenv("FER_EDGE_DATA", raising=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``runs/naive``, a run on a naive 80/10/10 split of synthetic:160."""
    path = tmp_path_factory.mktemp("splits")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setattr(training_display, "draw_histories", lambda histories, path: path.touch())
        words = ["--split", "80/10/10", "--split-seed", "1", "--allow-duplicates-across"]
        main(["train", *FACES, *TINY, *words, "--name", "naive"])
    return path


@pytest.fixture
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def _refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "fix: " in said
    return said


@pytest.mark.usefixtures("_there")
def test_a_run_and_its_weights_record_the_split() -> None:
    made = apply_resplit(Resplit("80/10/10", 1, duplicates_across=True), load("synthetic:160"))
    run = RunFolder(Path("runs/naive"))
    assert run.info().dataset == made.info()
    assert load_weights(run.model).info.dataset == made.info()


@pytest.mark.usefixtures("_there")
def test_resume_repeats_the_split(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = RunFolder(Path("runs/naive"))
    info = run.info()
    run.update(status="interrupted")
    for words in (["--split", "70/30"], ["--split", "official"], ["--split-seed", "2"]):
        said = _refused(capsys, "train", "--resume", "naive", *words)
        assert "was started with the NAIVE 80/10/10 split, seed 1" in said
    assert "was started with the NAIVE" in _refused(
        capsys, "train", "--resume", "naive", "--folds", "2"
    )
    said = _refused(capsys, "train", "--resume", "naive", "--data", "synthetic:170")
    assert "unknown which of its images are test images" in said
    main(["train", "--resume", "naive", "--split", "80/10/10"])
    assert "NAIVE 80/10/10 split, seed 1: TRAIN" in capsys.readouterr().err
    assert run.info().dataset == info.dataset


@pytest.mark.usefixtures("_there")
def test_build_verify_and_bench_use_the_runs_own_split(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    made = apply_resplit(Resplit("80/10/10", 1, duplicates_across=True), load("synthetic:160"))
    recipe = tmp_path / "few.toml"
    recipe.write_text('strategy = "stratified"\ncount = 32\nmethod = "minmax"\n')
    common = ["build", "runs/naive", *FACES, "--calibration", str(recipe), "--no-speed"]
    main([*common, "--no-verify", "--format", "json"])
    capsys.readouterr()
    bundle = Bundle.open("runs/naive/bundle")
    assert bundle.manifest.dataset == made.info()
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration["dataset_sha256"] == made.sha256

    main(["verify", "runs/naive/bundle", *FACES, "--precision", "fp32", "--split", "private",
          "--format", "json"])  # fmt: skip
    content = json.loads(capsys.readouterr().out)
    test = made.select("private")
    assert (content["n"], content["dataset"]["sha256"]) == (len(test), test.sha256)
    assert content["dataset"]["resplit"]["duplicates_across"] is True
    assert any("NAIVE 80/10/10 split" in text for text in content["notes"])
    main(["verify", "runs/naive/bundle", *FACES, "--precision", "fp32", "--no-record"])
    title = " ".join(capsys.readouterr().out.split())
    assert "public (NAIVE 80/10/10 split, seed 1)" in title

    for command in ("verify", "bench", "build"):
        said = _refused(capsys, command, "runs/naive/bundle", "--data", "synthetic:170")
        assert "unknown which of its images are test images" in said


@pytest.mark.usefixtures("_there")
def test_the_third_part_is_never_opened_by_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fer_edge.data import FerDataset

    asked = []
    select = FerDataset.select

    def watched(self: FerDataset, which: object) -> FerDataset:
        asked.append(str(getattr(which, "label", which)))
        return select(self, which)  # type: ignore[arg-type]

    monkeypatch.setattr(FerDataset, "select", watched)
    main(["train", *FACES, *TINY, "--split", "80/10/10", "--name", "clean"])
    assert set(asked) == {"train", "public"}
    assert RunFolder(Path("runs/clean")).info().dataset.resplit.seed == 0


@pytest.mark.usefixtures("_there")
def test_folds_print_their_table_and_are_not_mixed_up_with_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["train", *FACES, *TINY, "--folds", "2", "--split-seed", "4", "--name", "cv"])
    captured = capsys.readouterr()
    assert "SYNTHETIC faces: 2 folds of TRAIN, seed 4" in captured.out
    for word in ("fold-1", "fold-2", "mean", "sd"):
        assert word in captured.out
    assert "fold 2 of 2, seed 4: TRAIN " in captured.err
    for words in (["--folds", "3"], ["--split-seed", "5"], ["--split", "70/30"]):
        said = _refused(capsys, "train", "--resume", "cv", *words)
        assert "runs/cv was started with the 2 folds of seed 4" in said
    assert "other recipe" in _refused(capsys, "train", "--resume", "cv", "--epochs", "2").replace(
        "another recipe", "other recipe"
    )
    main(["train", "--resume", "cv", "--folds", "2"])
    assert "mean" in capsys.readouterr().out
    assert "exists already" in _refused(capsys, "train", *FACES, "--folds", "2", "--name", "cv")
    for words in (
        ["evaluate", "cv"],
        ["explain", "runs/cv", "--class", "happy"],
        ["plot", "history", "cv"],
        ["build", "runs/cv"],
        ["build", "cv"],
        ["bench", "cv"],
    ):
        said = _refused(capsys, *words)
        assert "runs/cv is a cross-validation" in said
        assert "runs/cv/fold-1" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "80/10"], "sum to 90 percent"),
        (["--split", "70/30", "--folds", "3"], "cannot be used together"),
        (["--split-seed", "1"], "need a random split"),
        (["--allow-duplicates-across"], "need a random split"),
        (["--folds", "2", "--teacher", "x"], "cannot be used with --teacher"),
    ],
)
def test_a_mistake_leaves_no_run(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in _refused(capsys, "train", *FACES, *words)
    assert not list(tmp_path.iterdir())
