"""``bench/ship.py``: a run in, the package's bundle out; or nothing at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ship
import ship_files
import torch
from fixtures_progress import Recorder
from fixtures_votes import write_voted
from msgspec.structs import replace
from ship_commands import provenance

from fer_edge import Classifier
from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import BuildReport, build
from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.convert.golden import golden_images
from fer_edge.data import FerDataset, Resplit, apply_resplit, load
from fer_edge.data.dataset import image_keys
from fer_edge.errors import GateError, UsageError
from fer_edge.measure.gate import GatePolicy
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import SILENT
from fer_edge.records import to_dict
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.qat import QatSetup
from fer_edge.runs.recipe import load_recipe
from fer_edge.training.folds import create_cross_validation

TINY = {"widths": [16, 32], "blocks": [1, 1]}


@pytest.fixture(scope="module")
def faces() -> FerDataset:
    return load("synthetic:420:3", cache=False)


@pytest.fixture
def few(tmp_path: Path) -> Path:
    path = tmp_path / "few.toml"
    path.write_text('count = 32\nmethod = "minmax"\n')
    return path


@pytest.fixture
def make_run(tmp_path: Path, faces: FerDataset) -> Callable[..., RunFolder]:
    def make(*overrides: str, faces: FerDataset = faces) -> RunFolder:
        changes = ("seed=3", "optim.lr=0.05", *overrides)
        recipe = load_recipe("default", changes)
        recipe = replace(recipe, model=replace(recipe.model, options=TINY))
        run = create_run(tmp_path / "runs", "mine", recipe, faces.info(), "synthetic:420:3")
        torch.manual_seed(0)
        spec = ModelSpec("compact", TINY)
        model = build_model(spec)
        with torch.no_grad():
            model.head.weight.normal_(0, 1)
            model.train()
            for _ in range(20):  # BatchNorm's statistics
                model(torch.from_numpy(Preprocessing().normalise(faces.images[:64, None])))
        meta = {
            "dataset": faces.info(),
            "recipe": recipe.to_dict(),
            "epoch": recipe.epochs,
        }
        save_weights(run.model, model.eval(), spec, Preprocessing(), meta)
        run.update(status="finished")
        return run

    return make


def shipped(run: RunFolder, faces: FerDataset, output: Path, **changes: Any) -> Bundle:
    options = {"speed": False, "accuracy": 0.3, **changes}
    return ship.ship(run, faces, output, **options)


def test_a_run_is_shipped(
    make_run: Callable[..., RunFolder],
    faces: FerDataset,
    few: Path,
    no_pretrained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A network that guesses may lose any recall by INT8: the gate is not what is tested here.
    patched = GatePolicy(max_top1_drop=1.0, max_recall_drop=1.0, max_recall_drop_small=1.0)
    monkeypatch.setattr("fer_edge.measure.proof.judge", _lenient(patched))
    run = make_run("data.holdout=0.3")
    output = no_pretrained / "compact"
    bundle = shipped(run, faces, output, calibration=few, command="python bench/ship.py runs/mine")
    names = {artifact.path for artifact in bundle.manifest.artifacts}
    assert names == {
        "model.fp32.onnx",
        "model.fp16.onnx",
        "model.int8.onnxruntime.onnx",
        "model.int8.openvino.onnx",
        "model.int8.tensorrt.onnx",
        "checkpoint.safetensors",
        "golden.npz",
        "verify.json",
    }
    assert bundle.unlisted() == []
    assert bundle.parent(bundle.artifact(precision="fp32")).path == "checkpoint.safetensors"
    training = to_dict(bundle.manifest.card.training)
    assert training["recipe_name"] == "default"
    assert training["seed"] == 3
    train, put = training["commands"]
    assert train.startswith("fer-edge train --recipe default --seed 3 ")
    assert "--set optim.lr=0.05" in train
    assert "--set data.holdout=0.3" in train
    assert put == "python bench/ship.py runs/mine"
    assert bundle.threshold is None or 0 <= bundle.threshold < 1
    assert to_dict(bundle.manifest.card.confidence)["fitted_on"]["fraction"] == 0.3
    engines = {(each.backend, each.precision) for each in bundle.manifest.card.results}
    assert ("pytorch", "fp32") in engines
    assert ("onnxruntime", "fp16") in engines
    assert ("openvino", "int8") in engines
    images, _ = bundle.golden()
    assert np.array_equal(images, golden_images())
    with Classifier() as classifier:  # now the package has one
        assert classifier.bundle.path == output
        assert classifier.predict(faces.images[0]).confidence > 0
    main(["inspect", "--card"])
    assert "fer-edge train --recipe default --seed 3" in capsys.readouterr().out

    # Smaller: what does not fit stays away, and the reference is the FP32 graph then.
    built, recorder = Bundle.open(run.path / "ship" / "built"), Recorder()
    limit = sum(artifact.size for artifact in bundle.manifest.artifacts)
    chosen = ship_files.chosen_files(built, limit, recorder)
    assert any("left out: checkpoint.safetensors" in text for text in recorder.notes)
    slim = ship_files.stage(built, chosen, no_pretrained / "slim", "compact", training)
    output.rename(no_pretrained / "old")
    slim.path.rename(output)
    slim = Bundle.open(output)
    with pytest.raises(UsageError, match="no PyTorch checkpoint"):
        Classifier(slim, backend="pytorch", precision="fp32")
    words = ["verify", "--data", "synthetic:420:3", "--format", "json", "--precision"]
    with pytest.raises(SystemExit):
        main([*words, "fp32"])
    assert "fix:   verify int8 or fp16" in capsys.readouterr().err
    main([*words, "fp16"])
    captured = capsys.readouterr()
    assert json.loads(captured.out)["reference"]["kind"] == "onnxruntime fp32"
    assert "has no checkpoint" in captured.err

    # Again, from the bundle alone: other INT8 graphs, and all else as it was.
    coarse = Int8Options(few, "minmax", rounding="nearest", half="none")
    command = "python bench/ship.py pretrained:fer2013"
    again = ship.ship_again(
        slim, faces, no_pretrained / "again", command=command, int8=coarse, speed=False
    )

    def digests(of: Bundle, quantised: bool) -> dict[str, str]:
        return {
            each.path: each.sha256
            for each in of.manifest.artifacts
            if each.format == "onnx" and (each.precision == "int8") is quantised
        }

    assert digests(again, False) == digests(slim, False)
    before, after = digests(slim, True), digests(again, True)
    assert set(before) <= set(after) | {"model.int8.tensorrt.all-int8.onnx"}
    assert not set(before.values()) & set(after.values())
    card, known = again.manifest.card, slim.manifest.card
    assert (card.confidence, card.prior) == (known.confidence, known.prior)
    assert card.training.commands == (*known.training.commands, command)
    assert {(each.backend, each.precision) for each in card.results} >= {("pytorch", "fp32")}
    for old in slim.manifest.artifacts:
        if old.precision in {"fp32", "fp16"}:
            new = again.artifact(path=old.path)
            assert new == old
            assert again.gate_of(new) == slim.gate_of(old)


def _lenient(policy: GatePolicy) -> Callable[..., Any]:
    from fer_edge.measure.gate import judge

    def judged(*arguments: Any, **options: Any) -> Any:
        return judge(*arguments, **{**options, "policy": policy})

    return judged


def test_the_commands_go_back_to_where_the_network_learnt(
    make_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    run = make_run("epochs=7")

    def successor(name: str, **content: Any) -> RunFolder:
        made = create_run(tmp_path / "runs", name, run.recipe(), {"source": "fer.zip"}, "fer.zip")
        made.update(**content)
        return made

    here = {"path": str(run.model), "sha256": "a" * 64}
    gone = {"path": "/gone/big/model.safetensors", "sha256": "b" * 64, "name": "big"}
    student = successor("student", teachers=[{**here, "name": "mine"}, gone], init=here)
    learnt = {"path": str(student.model), "sha256": "c" * 64, "name": "student"}
    setup = QatSetup(
        placement="openvino",
        method="minmax",
        input="pixels",
        output="logits",
        operations=(),
        grids={},
        weights={},
        ranges={},
        bias_steps={},
        shift=0.0,
    )
    tuned = successor("tuned", teachers=[learnt], qat=setup)
    found = provenance(tuned)
    assert (found["recipe_name"], found["seed"]) == ("default", 3)
    first, missing, second, third = found["commands"]
    assert first.startswith("fer-edge train --recipe default --seed 3 --set epochs=7 ")
    assert first.endswith(" --name mine --data synthetic:420:3")
    assert missing == "# big: weights bbbbbbbbbbbb"
    assert "--teacher mine --teacher big --init mine" in second
    assert third == "fer-edge qat student --target openvino --name tuned --data fer.zip"


def test_weights_that_a_bundle_accounts_for_are_named_once(
    make_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    made = create_run(tmp_path / "runs", "second", make_run().recipe(), {"source": "f.zip"}, "")
    copy = {"path": "/gone/first/model.safetensors", "sha256": "b" * 64, "name": "first"}
    shipped = {"path": "/gone/bundle", "sha256": "b" * 64, "name": "first", "commands": ["how"]}
    made.update(teachers=[copy], init=shipped)
    first, last = provenance(made)["commands"]
    assert first == "how"
    assert "--teacher first --init first" in last


def test_the_commands_of_a_soup_begin_with_its_ingredients(
    make_run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    one, root = make_run("epochs=7"), tmp_path / "runs"
    tuned = create_run(root, "tuned", one.recipe(), {"source": "f.zip"}, "")
    tuned.update(init={"path": str(one.model), "sha256": "a" * 64})
    soup = create_run(root, "soup", one.recipe(), {"source": "f.zip"}, "")
    parts = [
        {"name": run.name, "path": str(run.model), "sha256": digest * 64}
        for run, digest in ((one, "a"), (tuned, "b"))
    ]
    soup.update(soup=parts)
    first, second, last = provenance(soup)["commands"]
    assert first.endswith("--name mine --data synthetic:420:3")
    assert "--init mine" in second
    assert last == "fer-edge soup mine tuned --name soup --data f.zip"


def test_the_commands_name_folds_files_and_splits(
    make_run: Callable[..., RunFolder], faces: FerDataset, tmp_path: Path
) -> None:
    run, root = make_run(), tmp_path / "runs"
    cv = create_cross_validation(root, "cv", run.recipe(), faces, "fer.zip", count=2, seed=4)
    teachers = []
    for i, fold in enumerate(cv.runs):
        create_run(cv.path, fold.name, run.recipe(), apply_resplit(cv.splits[i], faces).info(), "")
        content = {"name": "cv", "path": str(fold.model), "sha256": str(i) * 64}
        teachers.append({**content, "fold": i + 1, "folds": 2})
    best = {"name": "best", "path": str(run.best), "sha256": "d" * 64}
    described = apply_resplit(Resplit("80/10/10", 5, duplicates_across=True), faces).info()
    student = create_run(root, "student", run.recipe(), described, "fer.zip")
    student.update(teachers=[*teachers, best], init=best)
    folds, first, last = provenance(student)["commands"]
    assert folds.startswith("fer-edge train --recipe default --seed 3 ")
    assert "--folds 2 --split-seed 4 --name cv --data " in folds
    assert " --name mine " in first
    assert (
        "--teacher cv --teacher runs/mine/best.safetensors --init runs/mine/best.safetensors "
        "--split 80/10/10 --split-seed 5 --allow-duplicates-across "
    ) in last


def test_nothing_is_shipped_by_halves(
    make_run: Callable[..., RunFolder],
    faces: FerDataset,
    few: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run()
    output = tmp_path / "compact"
    with pytest.raises(UsageError, match="all of TRAIN"):
        shipped(run, faces, output)
    run.update(status="interrupted")
    with pytest.raises(UsageError, match="interrupted, not finished"):
        shipped(run, faces, output)
    run.update(status="finished")

    def failed(*arguments: Any, **options: Any) -> Any:
        assert not (run.path / "ship" / "built").exists()
        raise GateError("INT8 failed its gate")

    monkeypatch.setattr(ship, "build", failed)
    with pytest.raises(GateError):
        shipped(run, faces, output, accuracy=None)
    assert not output.exists()


def test_a_bundle_without_confidence_keeps_its_name(
    make_run: Callable[..., RunFolder],
    faces: FerDataset,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def staged(built: Bundle, chosen: Any, path: Path, name: str, training: Any) -> Bundle:
        raise GateError(f"the name is {name}")

    built = BuildReport(tiny_bundle.path, "int8", "int8", "onnxruntime", "")
    monkeypatch.setattr(ship, "build", lambda *arguments, **options: built)
    monkeypatch.setattr(Bundle, "open", lambda path: tiny_bundle)
    monkeypatch.setattr(ship, "_check_gates", lambda bundle: None)
    monkeypatch.setattr(ship_files, "chosen_files", lambda *arguments: [])
    monkeypatch.setattr(ship_files, "stage", staged)
    with pytest.raises(GateError, match=r"the name is mine$"):
        shipped(make_run(), faces, tmp_path / "compact", accuracy=None, name="mine")


def test_a_network_that_is_too_large_is_refused(
    tiny_bundle: Bundle, make_run: Callable[..., RunFolder], faces: FerDataset, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="it has: "):
        ship_files.chosen_files(tiny_bundle, 10_000, SILENT)  # it has no FP16
    assert not (tiny_bundle.path.parent / "compact").exists()
    run = make_run()
    with pytest.raises(UsageError, match=r"the graphs of .* more than 10,000") as caught:
        shipped(run, faces, tmp_path / "compact", limit=10_000)
    assert str(caught.value.fix).startswith("--limit ")
    assert not (run.path / "ship").exists(), "before anything is built"


def test_no_golden_image_shows_a_person(fer2013_source: Path) -> None:
    """Blank golden images may be equal to blank images of FER2013; no other may be."""
    golden = golden_images()[:, 0]
    pictures = golden[[image.min() != image.max() for image in golden]]
    assert len(pictures) == 29
    people = set(image_keys(load(fer2013_source).images).tolist())
    assert not any(key in people for key in image_keys(pictures).tolist())


def test_a_network_of_votes_is_shipped_again_without_its_checkpoint(
    make_run: Callable[..., RunFolder],
    few: Path,
    tmp_path: Path,
    no_pretrained: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    patched = GatePolicy(max_top1_drop=1.0, max_recall_drop=1.0, max_recall_drop_small=1.0)
    monkeypatch.setattr("fer_edge.measure.proof.judge", _lenient(patched))
    write_voted(load("synthetic:420:3", cache=False), tmp_path)
    faces, votes = load(str(tmp_path / "faces.npz"), cache=False), tmp_path / "fer2013new.csv"
    run = make_run("loss.target=votes", "data.holdout=0.3", faces=faces)
    graphs = ("model.fp32.onnx", "model.int8.onnxruntime.onnx")
    monkeypatch.setattr(ship_files, "REQUIRED", (*graphs, "golden.npz"))
    plain = Int8Options(few, "minmax", rounding="nearest", half="none")
    gate = GateOptions(speed=False, votes=votes)
    options = {"target": "onnxruntime", "data": faces, "gate": gate}
    first = build(run.path, output=tmp_path / "votes", int8=plain, **options)
    built = Bundle.open(first.bundle)
    limit = sum(artifact.size for artifact in built.manifest.artifacts) - 1
    chosen = ship_files.chosen_files(built, limit, SILENT)
    training = to_dict(built.manifest.card.training)
    slim = ship_files.stage(built, chosen, no_pretrained / "slim", "votes", training)
    assert slim.find(format="safetensors") is None
    again = ship.ship_again(
        slim,
        faces,
        no_pretrained / "again",
        int8=replace_fields(plain, rounding="gptq"),
        votes=votes,
        speed=False,
        targets=["onnxruntime"],
    )
    assert again.manifest.by_votes

    def scored(bundle: Bundle, precision: str) -> set[str | None]:
        results = bundle.manifest.card.results
        return {each.labels for each in results if each.precision == precision}

    assert scored(again, "int8") == {"votes", None}
    assert scored(again, "fp32") >= scored(slim, "fp32")
    assert again.artifact(precision="int8").sha256 != slim.artifact(precision="int8").sha256
