"""`fer-edge evaluate`, `explain` and `plot`: which network, which images, which files."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_edge import cli
from fer_edge.backends.pytorch import PyTorchBackend
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.data import FerDataset, Resplit, apply_resplit, load
from fer_edge.data.readers_npz import npz_from_dataset
from fer_edge.models.weights import save_weights
from fer_edge.report import canvas
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.recipe import load_recipe

torch = pytest.importorskip("torch")
pytest.importorskip("captum")

FACES = "synthetic:280"
ROW = {
    "epoch": 1,
    "lr": 0.1,
    "train_loss": 1.9,
    "public_loss": 1.8,
    "public_top1": 0.3,
    "public_macro_f1": 0.2,
    "images_per_s": 100.0,
    "seconds": 1.0,
}


def make_run(name: str, dataset: FerDataset, data: str = FACES, *, weights: bool = True) -> None:
    """A run as training leaves one, but for its training: the network is random."""
    changes = ["model.options.widths=[8]", "model.options.blocks=[1]"]
    recipe = load_recipe("default", changes)
    run = create_run(Path("runs"), name, recipe, dataset.info(), data)
    run.write_history([ROW, {**ROW, "epoch": 2, "public_top1": 0.4}])
    if not weights:
        return
    from fer_edge.models import ModelSpec, build_model
    from fer_edge.preprocessing import Preprocessing

    torch.manual_seed(3)
    spec = ModelSpec(recipe.model.name, recipe.model.options)
    model = build_model(spec)
    with torch.no_grad():
        model.head.weight.normal_(0, 3)
    save_weights(run.model, model, spec, Preprocessing(), {"dataset": dataset.info()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/mine on synthetic faces, runs/split on its own 80/10/10 of them."""
    path = tmp_path_factory.mktemp("analyses")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        faces = load(FACES)
        make_run("mine", faces)
        make_run("split", apply_resplit(Resplit("80/10/10", 1), faces))
        for i in range(2):
            Image.fromarray(faces.images[i]).resize((90, 120)).save(f"face{i}.png")
    return path


@pytest.fixture(autouse=True)
def _there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.delenv("FER_EDGE_DATA", raising=False)
    monkeypatch.setattr(canvas, "_DPI", 40)


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command as a user does; returns exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        code = 0
        capsys.readouterr()
        try:
            cli.main([str(word) for word in words])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


Ask = Callable[..., tuple[int, str, str]]


# -- evaluate --------------------------------------------------------------------------------------


def test_a_run_is_evaluated_on_its_own_data(ask: Ask, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text, said = ask("evaluate", "mine", "--views", "flip", "--out", out, "--format", "json")
    assert code == 0, said
    content = json.loads(text)
    public = load(FACES).select("public")
    with PyTorchBackend("runs/mine/model.safetensors") as engine:
        predicted = engine.infer(public.images[:, None]).argmax(1)
    assert content["split"] == "public"
    assert content["n"] == len(public) == 28
    assert content["views"]["single"]["top1"] == pytest.approx((predicted == public.labels).mean())
    assert 0 < content["views"]["single"]["top1"] < 1
    assert content["views"]["flip"]["passes"] == 2
    assert content["engine"]["file"] == "model.safetensors"
    kept = json.loads((out / "metrics.json").read_text())
    assert kept["views"] == content["views"]
    assert (out / "history.png").is_file()
    assert (out / "mistakes.png").is_file()
    assert "do not publish" not in said, "synthetic faces are no real person's"


def test_real_faces_are_not_for_publication(
    ask: Ask, tmp_path: Path, make_dataset: Callable[..., FerDataset]
) -> None:
    npz_from_dataset(make_dataset(private=14), tmp_path / "real.npz")
    words = ("--data", tmp_path / "real.npz", "--split", "private")
    _, text, said = ask("evaluate", "runs/mine", *words)
    assert "real.npz, private, n = 14" in text
    assert "PRIVATE is the final test" in said
    assert "was trained on another data set" in said
    out = tmp_path / "p.png"
    code, _, said = ask("plot", "predictions", "mine", *words, "--count", 2, "-o", out)
    assert code == 0, said
    assert "p.png shows faces of real.npz" in said
    assert "do not publish" in said


def test_tables(ask: Ask) -> None:
    code, text, _ = ask("evaluate", "mine", "--mistakes", 2)
    assert code == 0
    for words in ("macro-F1", "ECE", "disgust", "most often taken for", "most confident mistakes"):
        assert words in text
    code, text, _ = ask("evaluate", "mine", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert {row["class"] for row in rows if row["score"] == "recall"} >= {"angry", "neutral"}
    assert ask("evaluate", "mine", "--format", "markdown")[1].startswith("**runs/mine, pytorch")


def test_a_run_of_another_split_is_judged_on_its_own_test_images(ask: Ask) -> None:
    _, text, said = ask("evaluate", "split", "--format", "json")
    content = json.loads(text)
    own = apply_resplit(Resplit("80/10/10", 1), load(FACES)).select("private")
    assert content["dataset"]["sha256"] == own.sha256
    assert content["split"] == "private"
    assert "own 80/10/10 split, seed 1" in said
    assert "not used in training" in said
    code, _, said = ask("evaluate", "split", "--data", "synthetic:350")
    assert code == 2
    assert "is unknown" in said


def test_a_bundle_and_a_runs_bundle(ask: Ask, own_bundle: Bundle) -> None:
    words = ("--data", FACES, "--format", "json")
    content = json.loads(ask("evaluate", own_bundle.path, *words)[1])
    assert (content["engine"]["backend"], content["engine"]["precision"]) == ("onnxruntime", "int8")
    content = json.loads(ask("evaluate", own_bundle.path, "--precision", "fp32", *words)[1])
    assert content["engine"]["file"] == "model.fp32.onnx"
    with BundleWriter("runs/split/bundle", base=own_bundle):
        pass
    content = json.loads(ask("evaluate", "split", "--precision", "int8", *words)[1])
    assert content["engine"]["file"] == "model.int8.onnxruntime.onnx"
    weights = own_bundle.path / "checkpoint.safetensors"
    content = json.loads(ask("evaluate", weights, *words)[1])
    assert content["engine"]["backend"] == "pytorch"


def test_mistakes_of_the_user(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, said = ask("evaluate", "nothing")
    assert code == 2
    assert "no run, bundle or weights file 'nothing'" in said
    if not RunFolder(Path("runs/empty")).path.exists():
        make_run("empty", load(FACES), weights=False)
    code, _, said = ask("evaluate", "empty")
    assert code == 2
    assert "fer-edge train --resume runs/empty" in said
    code, _, said = ask("evaluate", "mine", "--backend", "openvino")
    assert code == 2
    assert "fer-edge build runs/mine" in said
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, text, said = ask("evaluate", "mine", "--out", "never")
    assert code == 5
    assert text == "", "said before anything is computed"
    assert "fer-edge[report]" in said


# -- explain ---------------------------------------------------------------------------------------


def test_files_are_explained(ask: Ask, tmp_path: Path) -> None:
    words = ("--image", "face0.png", "face1.png", "-o", tmp_path, "--format", "csv")
    code, text, said = ask("explain", "mine", *words)
    assert code == 0, said
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["image"] for row in rows] == ["face0.png", "face1.png"]
    assert all(row["explained"] == row["predicted"] for row in rows)
    assert "layer stages.0 (8 maps of 24x24)" in said
    assert [path.name for path in tmp_path.iterdir()] == ["explain.png"]
    predicted = tmp_path.joinpath("explain.png").read_bytes()
    other = "angry" if rows[0]["predicted"] != "angry" else "sad"
    code, text, _ = ask("explain", "mine", *words, "--target", other)
    assert {row["explained"] for row in csv.DictReader(io.StringIO(text))} == {other}
    assert tmp_path.joinpath("explain.png").read_bytes() != predicted


def test_emotions_are_explained_and_averaged(ask: Ask, tmp_path: Path) -> None:
    words = ("--class", "happy", "--class", "fear", "--count", 3, "-o", tmp_path)
    code, text, said = ask("explain", "mine", *words, "--format", "json")
    assert code == 0, said
    rows = json.loads(text)
    assert [row["true"] for row in rows] == ["happy", "fear"] * 3
    assert len({row["image"] for row in rows}) == 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["explain.png", "mean.png"]


def test_explaining_needs_faces_and_a_network_with_gradients(
    ask: Ask, tmp_path: Path, own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, said = ask("explain", "mine")
    assert code == 2
    assert "--image face.jpg, or --class happy" in said
    code, _, said = ask("explain", "mine", "--image", "face0.png", "--layer", "stem.9")
    assert code == 2
    assert "did you mean 'stem" in said
    with BundleWriter(tmp_path / "bare") as writer:
        graph = own_bundle.path / "model.fp32.onnx"
        writer.add_file(graph, "model.fp32.onnx", format="onnx", precision="fp32")
    code, _, said = ask("explain", tmp_path / "bare", "--image", "face0.png")
    assert code == 2
    assert "an engine gives no gradients" in said
    assert ask("explain", own_bundle.path, "--image", "face0.png", "-o", tmp_path / "o")[0] == 0
    monkeypatch.setitem(sys.modules, "captum", None)
    code, _, said = ask("explain", "mine", "--image", "face0.png")
    assert code == 5
    assert "pip install 'fer-edge[explain]'" in said


# -- plot ------------------------------------------------------------------------------------------


def test_predictions_are_drawn(ask: Ask, tmp_path: Path) -> None:
    def draw(*words: object) -> np.ndarray:
        path = tmp_path / "p.png"
        code, _, said = ask("plot", "predictions", "mine", "--count", 3, "-o", path, *words)
        assert code == 0, said
        return np.asarray(Image.open(path))

    first = draw()
    np.testing.assert_array_equal(first, draw("--random", "--seed", 0))
    assert not np.array_equal(first, draw("--seed", 1))
    assert not np.array_equal(first, draw("--mistakes"))
    code, _, said = ask("plot", "predictions", "mine", "--mistakes", "--random")
    assert code == 2
    assert "cannot be used together" in said
    code, _, said = ask("plot", "predictions", "mine", "-o", tmp_path / "p.txt")
    assert code == 2
    assert ".png" in said


def test_histories_share_their_axes(ask: Ask, tmp_path: Path) -> None:
    code, _, said = ask("plot", "history", "mine", "runs/split", "-o", tmp_path / "h.svg")
    assert code == 0, said
    text = (tmp_path / "h.svg").read_text()
    assert "<svg" in text
    assert ask("plot", "history", "nobody")[0] == 2


@pytest.mark.parametrize(
    "words", [["evaluate"], ["explain"], ["plot"], ["plot", "predictions"], ["plot", "history"]]
)
def test_help_ends_with_an_example(ask: Ask, words: list[str]) -> None:
    assert "Example:" in ask(*words, "--help")[1]
