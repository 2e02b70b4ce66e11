"""The shipped bundle: it is used if no bundle is named, with a note, and is never changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures_bundle import golden_images
from PIL import Image

from fer_edge import Classifier
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.build.source import find_source
from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.convert.graph import load_model
from fer_edge.errors import UsageError
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.pretrained import NETWORKS, is_packaged, pretrained_path
from fer_edge.quantize.trials import step_by_step
from fer_edge.records import to_dict
from fer_edge.runs.find import A_BUNDLE, find


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(list(arguments))
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_paths(pretrained_bundle: Bundle, tmp_path: Path) -> None:
    assert pretrained_path() == pretrained_bundle.path
    assert is_packaged(pretrained_path())
    assert is_packaged(pretrained_path() / "manifest.json")
    (tmp_path / "link").symlink_to(pretrained_path())
    assert is_packaged(tmp_path / "link")
    assert not is_packaged(tmp_path)


def test_classifier_takes_it(pretrained_bundle: Bundle) -> None:
    with Classifier() as classifier:
        assert classifier.bundle.path == pretrained_bundle.path
        assert classifier.predict(golden_images(1)[0, 0]).label in classifier.labels


def test_classifier_without_one(no_pretrained: Path) -> None:
    with pytest.raises(UsageError, match="no pretrained bundle") as raised:
        Classifier()
    assert "name a bundle" in str(raised.value.fix)


def test_predict_and_inspect_say_which(
    pretrained_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(golden_images(1)[0, 0]).save("face.png")
    for words in (("predict", "face.png", "--format", "json"), ("inspect", "--format", "json")):
        code, out, err = run(capsys, *words)
        assert code == 0
        json.loads(out)
        assert f"no bundle named: {pretrained_bundle.path}, the pretrained one" in err
    code, _, err = run(capsys, "inspect", "pretrained")
    assert (code, err) == (0, "")


def test_a_run_of_ones_own_is_hinted_at_and_not_taken(
    pretrained_bundle: Bundle, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = Path("runs/mine")
    mine.mkdir(parents=True)
    (mine / "run.json").write_text("{}")
    (mine / "model.safetensors").write_bytes(b"")
    shutil.copytree(tiny_bundle.path, mine / "bundle")
    code, out, err = run(capsys, "inspect", "--format", "json")
    assert code == 0
    assert json.loads(out)["path"] == str(pretrained_bundle.path)
    assert "for your newest run, name it: runs/mine" in err


def test_a_folder_called_pretrained_comes_first(
    pretrained_bundle: Bundle, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_bundle.path, "pretrained")
    _, out, _ = run(capsys, "inspect", "pretrained", "--format", "json")
    assert json.loads(out)["path"] == "pretrained"


def test_nothing_is_written_into_the_package(
    pretrained_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(pretrained_bundle.path.parent)
    data = ("--data", "synthetic:140")
    short = LatencyProtocol(
        warmup_s=0, warmup_queries=1, measure_s=0, min_queries=8, repeats=1, quick=True
    )
    monkeypatch.setattr("fer_edge.cli.bench._protocol", lambda quick, pace: short)
    # The tiny bundle's checkpoint is no network: its FP32 graph stands in as the reference.
    monkeypatch.setattr(
        "fer_edge.backends.pytorch.PyTorchBackend.unavailable_reason", lambda: "not here"
    )
    code, _, err = run(capsys, "verify", *data, "--record", "--precision", "int8")
    assert code in {0, 3}
    assert "not recorded in the bundle" in err
    assert "part of the installed package" in err
    code, _, err = run(
        capsys, "bench", *data, "--quick", "--backend", "onnxruntime", "--precision", "int8"
    )
    assert code == 0
    assert "not recorded in the bundle" in err
    assert list(Path().glob("bench-*.json"))
    assert contents(pretrained_bundle.path.parent) == before


def test_a_build_takes_a_copy(pretrained_bundle: Bundle) -> None:
    before = contents(pretrained_bundle.path.parent)
    for output in (None, pretrained_bundle.path):
        with pytest.raises(UsageError, match="not written to") as raised:
            find_source("pretrained", output)
        assert raised.value.fix
        assert "fer-edge build pretrained:fer2013 -o compact" in raised.value.fix
    source = find_source("pretrained", "mine")
    assert source.given is not None
    assert source.given.path == source.output == Path("mine")
    assert Bundle.open("mine").manifest.artifacts == pretrained_bundle.manifest.artifacts
    assert contents(pretrained_bundle.path.parent) == before
    find_source("pretrained", "mine")  # the copy that is there is gone on with


def test_a_missing_engine_names_a_command_that_works(pretrained_bundle: Bundle) -> None:
    with pytest.raises(UsageError) as raised:
        pretrained_bundle.artifact(format="onnx", precision="fp16")
    assert raised.value.fix == "fer-edge build pretrained:fer2013 -o compact --precision fp16"


@pytest.fixture
def both(pretrained_bundle: Bundle) -> tuple[Path, Path]:
    """Two packaged networks: that of FER2013's labels, and that of the votes."""
    fer2013 = pretrained_bundle.path
    return fer2013, Path(shutil.copytree(fer2013, fer2013.with_name("votes")))


def test_the_network_of_the_votes_answers_by_default(both: tuple[Path, Path]) -> None:
    fer2013, votes = both
    assert pretrained_path() == votes
    assert pretrained_path("fer2013") == fer2013
    with Classifier() as classifier:
        assert classifier.bundle.path == votes
    for name, path in (
        ("pretrained", fer2013),
        ("pretrained:fer2013", fer2013),
        ("pretrained:votes", votes),
    ):
        assert find(name, wants=A_BUNDLE).path == path
    assert Bundle.open(votes).build_command() == "fer-edge build pretrained:votes -o votes"


def test_scores_are_of_the_network_that_learnt_the_labels(both: tuple[Path, Path]) -> None:
    fer2013, votes = both
    for by_votes, path, why in (
        (True, votes, "(pretrained:votes, since votes are given)"),
        (False, fer2013, "(pretrained:fer2013, since FER2013's labels judge)"),
    ):
        found = find(None, wants=A_BUNDLE.scored_by_votes(by_votes))
        assert found.path == path
        assert found.note == f"no bundle named: {path}, the pretrained one {why}"


def test_a_network_that_is_not_packaged(pretrained_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="holds no pretrained:votes"):
        find("pretrained:votes", wants=A_BUNDLE)
    with pytest.raises(UsageError, match="no network pretrained:mine") as raised:
        find("pretrained:mine", wants=A_BUNDLE)
    assert raised.value.fix == "use pretrained:votes or pretrained:fer2013"
    # Scoring by votes then takes the one that is there.
    assert find(None, wants=A_BUNDLE.scored_by_votes(True)).path == pretrained_bundle.path


def test_the_packaged_bundles_are_small_and_learnt_what_their_names_say() -> None:
    total = 0
    for name, folder in NETWORKS.items():
        try:
            path = pretrained_path(name)
        except UsageError:
            continue
        assert path.name == folder
        bundle = Bundle.open(path)  # checks every digest
        assert bundle.unlisted() == []
        assert bundle.manifest.by_votes is (name == "votes")
        assert not bundle.manifest.synthetic
        total += sum(file.stat().st_size for file in path.iterdir())
    assert 0 < total < 16_000_000


@pytest.mark.parametrize("name", NETWORKS)
def test_the_packaged_int8_graphs_were_chosen_on_train_and_judged_once(name: str) -> None:
    bundle = Bundle.open(pretrained_path(name))
    graphs = [each for each in bundle.manifest.artifacts if each.precision == "int8"]
    assert {each.target for each in graphs} >= {"onnxruntime", "tensorrt"}
    for each in graphs:
        gate = bundle.gate_of(each)
        assert gate is not None
        assert gate.passed
        assert gate.flips is not None
        assert gate.n is not None
        assert gate.flips <= 0.011 * gate.n
        recorded = to_dict(gate)
        assert len(recorded["attempts"]) == 1
        choice = recorded["choice"]
        assert choice["images"]["images"].startswith("TRAIN")
        assert choice["images"]["calibrated_on"] == 0
        assert choice["trial"]["kl"] <= 0.35e-3
        assert choice["trial"]["flips"] <= 0.012


@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_runtime_runs_tensorrts_graph_as_it_is_written(name: str) -> None:
    """An optimiser of ONNX Runtime would make its biases int32, with scales that FP16 rounds."""
    bundle = Bundle.open(pretrained_path(name))
    artifact = bundle.artifact(format="onnx", precision="int8", target="tensorrt")
    images = bundle.golden()[0]
    written = step_by_step(load_model(bundle.file(artifact)), images[:, 0])
    with OnnxRuntimeBackend(bundle.file(artifact), precision="int8") as backend:
        logits = backend.infer(images)
    # Some CPUs round differently; that optimiser changes the logits far more.
    assert np.abs(logits - written).mean() < 0.004
