"""A network that learns votes, through every command: train, confidence, build, verify, soup."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_votes import write_voted

from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.data import load
from fer_edge.measure.latency import LatencyProtocol

TINY = ("--recipe", "quick", "--set", "model.options.widths=[16]", "--set")
SMALL = (*TINY, "model.options.blocks=[1]", "--set", "optim.batch_size=32")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Drawn faces in faces.npz, their votes in fer2013new.csv: one of eight is contempt."""
    folder = tmp_path_factory.mktemp("votes")
    write_voted(load("synthetic:700:3", cache=False), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("FER_EDGE_DATA", raising=False)
        words = ("--data", "faces.npz", "--votes", "fer2013new.csv", "--epochs", "2")
        targets = ("--set", "loss.target=votes", "--set", "data.holdout=0.4")
        for seed in ("0", "1"):
            init = () if seed == "0" else ("--init", "voted")
            name = "voted" if seed == "0" else "second"
            main(["train", *SMALL, *words, *targets, "--seed", seed, *init, "--name", name])
        yield folder


@pytest.fixture(autouse=True)
def _there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv("FER_EDGE_DATA", raising=False)


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(list(words))
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


DATA = ("--data", "faces.npz")
VOTES = ("--votes", "fer2013new.csv")


def test_build_and_verify_judge_by_the_votes_that_the_run_learnt(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("confidence", "voted", *DATA, "--accuracy", "0.5", "--prior", "0.25")
    code, out, err = run(capsys, *words, "--format", "json")
    assert code == 0, err
    fitted = json.loads(out)
    assert fitted["fitted_on"]["labels"] == "votes"
    assert fitted["prior"]["tau"] == 0.25
    # Contempt is learnt by no output; the others' shares sum to one.
    assert sum(fitted["prior"]["shares"].values()) == pytest.approx(1)
    build = ("build", "voted", *DATA, "--precision", "fp32", "--target", "onnxruntime")
    code, out, err = run(capsys, *build, "--format", "json")
    assert code == 0, err
    proven = json.loads(out)["verified"]["fp32"]
    assert proven["dataset"]["labels"] == "votes"
    assert len(proven["engine"]["confusion"]) == 8
    assert proven["engine"]["votes"]["n_majority"] == proven["n"]
    bundle = Bundle.open("runs/voted/bundle")
    assert bundle.manifest.by_votes
    assert [result.labels for result in bundle.manifest.card.results] == ["votes", "votes"]
    assert bundle.manifest.card.prior is not None
    verify = ("verify", "voted", *DATA, "--precision", "fp32", "--format", "json")
    code, out, err = run(capsys, *verify, *VOTES)
    assert code == 0, err
    by_votes = json.loads(out)
    assert by_votes["n"] == proven["n"]
    assert not any("judge it" in note for note in by_votes["notes"])
    code, out, err = run(capsys, *verify)
    assert code == 0, err
    by_labels = json.loads(out)
    assert by_labels["n"] > by_votes["n"] - 1
    assert "labels" not in by_labels["dataset"]
    assert any("here FER2013's labels judge it" in note for note in by_labels["notes"])
    code, out, _ = run(capsys, *verify[:-2], "--format", "markdown")
    assert code == 0
    assert "learnt the votes of FER+; here FER2013's labels judge it" in out.splitlines()[0]
    # Both are kept in the bundle.
    recorded = json.loads((Path("runs/voted/bundle") / "verify.json").read_text())
    assert [one["dataset"].get("labels") for one in recorded["verifications"]] == ["votes", None]
    code, out, _ = run(capsys, "inspect", "voted", "--card", "--format", "markdown")
    assert code == 0
    assert "## Scores by votes" in out
    assert "## Prior" in out


def test_verify_and_bench_show_the_scores_by_votes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    short = LatencyProtocol(warmup_s=0, warmup_queries=2, measure_s=0, min_queries=70, repeats=1)
    monkeypatch.setattr("fer_edge.cli.bench._protocol", lambda quick, pace: short)
    words = ("build", "second", *DATA, "--precision", "fp32", "--target", "onnxruntime")
    code, _, err = run(capsys, *words)
    assert code == 0, err
    verify = ("verify", "second", *DATA, *VOTES, "--precision", "fp32")
    code, out, _ = run(capsys, *verify, "--format", "json")
    assert code == 0
    scores = json.loads(out)["engine"]["votes"]
    code, out, _ = run(capsys, *verify, "--format", "csv")
    rows = {row["score"]: row["engine"] for row in csv.DictReader(out.splitlines())}
    for name, field in (("mean recall, majority", "mean_recall"), ("ECE, by shares", "ece")):
        assert float(rows[f"votes: {name}"]) == pytest.approx(scores[field])
    assert float(rows["votes: KL of the shares (nats)"]) == pytest.approx(scores["kl"])
    code, out, _ = run(capsys, *verify, "--format", "markdown")
    assert f"| votes: KL of the shares (nats) | {scores['kl']:.4f} | {scores['kl']:.4f} |" in out
    assert "one person, by the majority of the others" in out
    words = ("bench", "second", *DATA, *VOTES, "--backend", "onnxruntime", "--quick")
    code, out, err = run(capsys, *words, "--save", "bench.json", "--format", "markdown")
    assert code == 0, err
    assert "| mean recall | votes share | KL |" in out
    assert f"| {100 * scores['share']:.2f} % | {scores['kl']:.4f} |" in out
    assert "one person agrees with the majority of the others" in out
    saved = json.loads(Path("bench.json").read_text())
    # The null backend, the reference, and two precisions that this bundle does not have.
    voted = {row["backend"] + row["precision"]: row["votes"] for row in saved["rows"]}
    assert voted["onnxruntimefp32"] == scores
    assert voted["null"] is None
    # The result is read again with its votes.
    code, out, _ = run(capsys, "bench", "compare", "bench.json", "bench.json", "--format", "json")
    assert code == 0


@pytest.mark.parametrize("target", ["votes", "majority"])
def test_votes_go_with_the_other_parts_of_a_loss(
    capsys: pytest.CaptureFixture[str], target: str
) -> None:
    words = ("train", *SMALL, *DATA, *VOTES, "--epochs", "1", "--name", f"taught-{target}")
    changes = (f"loss.target={target}", "loss.mixup=0.2", "loss.label_smoothing=0.1")
    changes += ("loss.class_weights=true", "data.holdout=0.4")
    options = [word for change in changes for word in ("--set", change)]
    code, _, err = run(capsys, *words, *options, "--teacher", "voted")
    assert code == 0, err
    assert f"learns the {target} of FER+" in err
    # Of eight drawn faces one is contempt, which no output has.
    assert "images of TRAIN without" in err
    info = json.loads(Path(f"runs/taught-{target}/run.json").read_text())
    assert [teacher["name"] for teacher in info["teachers"]] == ["voted"]
    assert info["last"]["train_loss"] > 0


def test_qat_learns_votes(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("qat", "voted", *DATA, "--epochs", "1", "--name", "fake-quantised")
    code, _, err = run(capsys, *words)
    assert code == 0, err
    info = json.loads(Path("runs/fake-quantised/run.json").read_text())
    assert info["recipe"]["loss"]["target"] == "votes"
    code, out, err = run(capsys, "evaluate", "fake-quantised", *DATA, "--format", "json")
    assert code == 0, err
    assert json.loads(out)["dataset"]["labels"] == "votes"


def test_evaluate_says_which_labels_judge(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "evaluate", "second", *DATA, "--format", "json")
    assert code == 0, err
    content = json.loads(out)
    # The run's own votes, without naming them.
    assert content["dataset"]["labels"] == "votes"
    assert content["votes"]["n_majority"] == content["n"]
    history = json.loads(Path("runs/second/run.json").read_text())["last"]
    assert content["views"]["single"]["top1"] == pytest.approx(history["public_top1"])
    code, out, _ = run(capsys, "evaluate", "second", *DATA, "-o", "evaluation")
    assert code == 0
    assert "labels by votes" in out
    assert "by the votes of ten people" in out
    assert Path("evaluation/confusion.png").stat().st_size > 10_000


def test_a_soup_learnt_what_its_runs_learnt(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(
        capsys, "soup", "voted", "second", *DATA, "--name", "soup", "--format", "json"
    )
    assert code == 0, err
    own = {row["run"]: row["top-1"] for row in json.loads(out)}
    code, out, _ = run(capsys, "evaluate", "soup", *DATA, "--format", "json")
    content = json.loads(out)
    assert content["dataset"]["labels"] == "votes"
    assert content["views"]["single"]["top1"] == pytest.approx(own["soup"])


def test_the_votes_of_a_cross_validation_are_found_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--folds", "2", "--epochs", "1", "--set", "loss.target=majority", "--name", "cv")
    with monkeypatch.context() as patch:
        # It stops before its first fold.
        patch.setattr("fer_edge.training.loop.train", _stop)
        run(capsys, "train", *SMALL, *DATA, *VOTES, *words)
    code, out, err = run(capsys, "train", "--resume", "cv")
    assert code == 0, err
    code, out, err = run(capsys, "evaluate", "cv/fold-1", "--format", "json")
    assert code == 0, err
    assert json.loads(out)["dataset"]["labels"] == "votes"


def _stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_other_votes_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    text = Path("fer2013new.csv").read_text().replace(",7,", ",6,", 1)
    other.write_text(text)
    for command in ("confidence", "build"):
        code, _, err = run(capsys, command, "voted", *DATA, "--votes", str(other))
        assert code == 2
        assert "not the file of votes that the network learnt" in err
