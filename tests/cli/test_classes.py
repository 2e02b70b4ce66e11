"""Classes of one's own through all commands: train, build, verify, bench, predict, explain, ..."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from fixtures_classes import EIGHT, THREE, write_tree
from fixtures_training import TINY

from fer_edge import Classifier
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.cli import main
from fer_edge.emotions import EMOTIONS
from fer_edge.labels import FERPLUS
from fer_edge.models.weights import load_weights, save_weights
from fer_edge.provenance import DatasetInfo, WeightsInfo
from fer_edge.runs.folder import RunFolder

Run = Callable[..., str]
SETS = {"three": THREE, "eight": FERPLUS.names}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return stdout, or stderr where it must end with ``code``."""

    def call(*args: object, code: int = 0) -> str:
        capsys.readouterr()
        try:
            ended = main([str(arg) for arg in args])
        except SystemExit as stop:
            ended = stop.code or 0
        out, err = capsys.readouterr()
        assert (ended or 0) == code, err
        assert "Traceback" not in err
        return err if code else out

    return call


def trained(root: Path, tree: Path, classes: str, *more: str) -> None:
    keys = (*TINY, "epochs=25", "optim.lr=0.3", "ema.decay=0.5", "loss.mixup=0", *more)
    options = [word for key in keys for word in ("--set", key)]
    where = ("--data", tree, "--classes", classes, "--runs", root, "--name", "run")
    main([str(word) for word in ("train", *where, *options)])


@pytest.fixture(scope="module", params=list(SETS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``faces``, ``runs/run`` and its bundle, of three classes and of FER+'s eight."""
    folder = tmp_path_factory.mktemp(request.param)
    names = THREE if request.param == "three" else EIGHT
    tree = write_tree(folder / "faces", names, count=700, size=48 if len(names) == 3 else 60)
    trained(folder / "runs", tree, "own", "data.holdout=0.25")
    # All choices of a build for the three classes; one method is enough for the eight.
    method = [] if len(names) == 3 else ["--method", "minmax"]
    main(["build", str(folder / "runs/run"), "--data", str(tree), "--no-speed", *method])
    return folder


def names_of(made: Path) -> tuple[str, ...]:
    return THREE if (made / "faces/train/glad").is_dir() else FERPLUS.names


def test_the_bundle_has_the_classes_and_an_int8_engine(made: Path) -> None:
    names = names_of(made)
    run_info = RunFolder(made / "runs/run").info()
    bundle = Bundle.open(made / "runs/run/bundle")
    assert run_info.dataset.labels == bundle.labels == names == bundle.manifest.dataset.labels
    assert load_weights(made / "runs/run/model.safetensors").labels == names
    assert bundle.manifest.output.shape == ("N", len(names))
    assert bundle.manifest.model.spec is not None
    assert bundle.manifest.model.spec["classes"] == len(names)
    assert bundle.golden()[1].shape[1] == len(names)
    assert bundle.find(precision="int8") is not None
    said = json.dumps(bundle.manifest.to_dict()["card"])
    assert ("FER2013" in said) == (names == FERPLUS.names)


def test_predict_answers_with_the_names(made: Path, run: Run) -> None:
    names = names_of(made)
    bundle, folder = made / "runs/run/bundle", made / "faces/val" / names[-1]
    words = ("predict", folder, "--bundle", bundle, "--format", "csv", "--no-detect")
    rows = list(csv.DictReader(io.StringIO(run(*words))))
    assert [name for name in rows[0] if name in names] == list(names)
    right = [row["label"] == names[-1] for row in rows]
    assert sum(right) >= 0.8 * len(right)
    with Classifier(bundle) as classify:
        answer = classify.predict(next(folder.iterdir()))
    assert tuple(answer.probabilities) == names


def test_verify_bench_and_evaluate_read_the_classes_from_the_bundle(made: Path, run: Run) -> None:
    names, data = names_of(made), made / "faces"
    bundle = made / "runs/run/bundle"
    verified = json.loads(
        run("verify", bundle, "--data", data, "--format", "json", "--precision", "int8")
    )
    assert tuple(verified["engine"]["per_class"]) == names
    assert len(verified["engine"]["confusion"]) == len(names)
    args = ("--backend", "onnxruntime", "--precision", "int8", "--quick", "--format", "json")
    saved = made / "bench.json"
    benched = json.loads(run("bench", bundle, "--data", data, *args, "--save", saved))
    assert {row["status"] for row in benched["rows"]} == {"ok"}
    out = made / "evaluation"
    text = run("evaluate", made / "runs/run", "--data", data, "--out", out)
    assert all(name in text for name in names)
    header = (out / "predictions.csv").read_text().splitlines()[0].split(",")
    assert header == ["id", "true", "predicted", *names]
    assert run("verify", bundle, "--data", data, "--classes", "own", "--format", "json")


def test_inspect_explain_and_plot(made: Path, run: Run) -> None:
    names, data = names_of(made), made / "faces"
    shown = run("inspect", made / "runs/run/bundle")
    assert " ".join(names) in " ".join(shown.split()).replace(",", "")
    assert names[0] in run("inspect", made / "runs/run/bundle", "--card")
    where = ("--data", data, "-o", made / "explained", "--count", "2", "--format", "csv")
    table = run("explain", made / "runs/run", "--class", "all", *where)
    assert {row["true"] for row in csv.DictReader(io.StringIO(table))} == set(names)
    said = run("explain", made / "runs/run", "--class", "gladd", *where, code=2)
    assert "unknown class 'gladd'" in said
    drawn = made / "faces.png"
    run("plot", "predictions", made / "runs/run", "--data", data, "-o", drawn, "--count", 3)
    assert drawn.is_file()


def test_confidence_and_prior_go_by_the_set(made: Path, run: Run, tmp_path: Path) -> None:
    names = names_of(made)
    shutil.copytree(made / "runs/run", tmp_path / "run", ignore=shutil.ignore_patterns("bundle"))
    args = ("--data", made / "faces", "--prior", "balanced", "--format", "json")
    fitted = json.loads(run("confidence", tmp_path / "run", *args))
    assert set(fitted["prior"]["shares"]) == set(names)
    again = json.loads(run("confidence", tmp_path / "run", *args))
    assert again["temperature"] == fitted["temperature"]


def test_contradictions_are_refused(made: Path, run: Run) -> None:
    names, bundle, data = names_of(made), made / "runs/run/bundle", made / "faces"
    said = run("verify", bundle, "--data", data, "--classes", "a,b", code=2)
    assert f"has the classes {names[0]}" in said
    said = run("verify", bundle, "--data", "synthetic:70", "--classes", "fer2013", code=2)
    assert "--classes gives angry" in said
    if names == THREE:
        assert "seven classes by number" in run("verify", bundle, "--data", "synthetic:70", code=2)
        said = run("verify", "--data", data, code=2)
        assert "is not one of the seven emotions" in said
        said = run("verify", "--data", data, "--classes", "own", code=2)
        assert "has the classes" in said or "is not one of the seven emotions" in said


def test_a_network_of_other_classes_is_a_start_but_no_teacher(
    made: Path, run: Run, tmp_path: Path
) -> None:
    options = [word for key in (*TINY, "epochs=1") for word in ("--set", key)]
    common = ("--data", "synthetic:140", "--runs", tmp_path, *options)
    said = run("train", *common, "--teacher", made / "runs/run", "--name", "a", code=2)
    assert "another task than this one" in said
    run("train", *common, "--init", made / "runs/run", "--name", "b")
    started = load_weights(tmp_path / "b/model.safetensors")
    assert started.labels == EMOTIONS
    assert started.spec.classes == 7


def test_resume_reads_the_recorded_classes(made: Path, run: Run) -> None:
    said = run("train", "--resume", made / "runs/run", "--classes", "fer2013", code=2)
    assert "has finished" in said or "--classes gives" in said


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
def test_permuted_names_permute_the_answers_and_nothing_else(
    order: tuple[int, ...], tmp_path: Path
) -> None:
    """The rows of the last layer and the names in another order are the same network."""
    tree = write_tree(tmp_path / "faces", THREE, count=70)
    trained(tmp_path / "runs", tree, "own")
    source = load_weights(tmp_path / "runs/run/model.safetensors")
    names = tuple(THREE[i] for i in order)
    state = dict(source.state)
    for part in ("head.weight", "head.bias"):
        state[part] = state[part][torch.tensor(order)]
    info = WeightsInfo(dataset=DatasetInfo(classes=names, source="faces"))
    other = tmp_path / "other/model.safetensors"
    save_weights(other, state, source.spec, source.preprocessing, info)
    for path in (source.path, other):
        main(["build", str(path), "--precision", "fp32", "--no-verify", "-o", f"{path.parent}/b"])
    faces = sorted((tree / "val").glob("*/*.png"))
    with Classifier(source.path.parent / "b") as one, Classifier(other.parent / "b") as two:
        assert (one.labels, two.labels) == (THREE, names)
        for first, second in zip(one.predict_batch(faces), two.predict_batch(faces)):
            assert first.label == second.label
            for name in THREE:
                assert first.probabilities[name] == pytest.approx(
                    second.probabilities[name], abs=1e-6
                )


def test_an_onnx_file_of_own_classes_keeps_its_names(made: Path, run: Run, tmp_path: Path) -> None:
    graph = made / "runs/run/bundle/model.fp32.onnx"
    out = tmp_path / "bundle"
    run("build", graph, "--precision", "fp32", "--data", made / "faces", "-o", out)
    assert Bundle.open(out).labels == names_of(made)
    model = onnx.load(str(graph))
    kept = [each for each in model.metadata_props if each.key != "fer_edge.labels"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, str(tmp_path / "nameless.onnx"))
    said = run("build", tmp_path / "nameless.onnx", "--precision", "fp32", "--no-verify", code=2)
    assert "logits, but its labels are angry" in said


def test_old_bundles_and_their_digests_stay(tmp_path: Path) -> None:
    from fer_edge.pretrained import pretrained_path

    packaged = Bundle.open(pretrained_path())
    assert packaged.labels == EMOTIONS
    written = json.loads((packaged.path / "manifest.json").read_text(encoding="utf-8"))
    assert packaged.manifest.sha256 == written["manifest_sha256"]
    with BundleWriter(tmp_path / "copy", base=packaged):
        pass
    assert Bundle.open(tmp_path / "copy").labels == EMOTIONS
    with Classifier(packaged) as classify:
        assert tuple(classify.predict(np.zeros((48, 48), np.uint8)).probabilities) == EMOTIONS
