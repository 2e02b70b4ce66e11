"""PUBLIC judges an INT8 graph, and cannot choose it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures_progress import Recorder

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import BuildReport, build
from fer_edge.bundle import Bundle
from fer_edge.cpu import fitting_weights
from fer_edge.data import FerDataset, Split
from fer_edge.errors import UsageError
from fer_edge.files import sha256_file
from fer_edge.measure.gate import GatePolicy
from fer_edge.records import to_dict
from fer_edge.report.card import card_markdown

ANYTHING = GatePolicy(max_top1_drop=1, max_recall_drop=1, max_recall_drop_small=1, max_flips=1)


def another_public(faces: FerDataset) -> FerDataset:
    """Return the faces with other images and other labels in PUBLIC, and another digest."""
    rows = np.flatnonzero(faces.split == Split.PUBLIC)
    images, labels = faces.images.copy(), faces.labels.copy()
    images[rows] = np.random.default_rng(2).integers(0, 256, images[rows].shape, np.uint8)
    labels[rows] = labels[np.random.default_rng(0).permutation(rows)]
    return replace(faces, images=images, labels=labels, sha256="1" * 64)


def made(weights: Path, faces: FerDataset, out: Path, target: str) -> BuildReport:
    return build(
        weights,
        data=faces,
        output=out,
        target=target,
        int8=Int8Options("stratified-128", "auto"),
        gate=GateOptions(speed=False, policy=ANYTHING),
    )


@pytest.mark.parametrize("target", ["onnxruntime", "orin-jp62"])
def test_public_cannot_change_the_graph(
    target: str, weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    digests, scores, choices = set(), set(), []
    for at, dataset in enumerate((faces, another_public(faces))):
        report = made(weights, dataset, tmp_path / str(at), target)
        bundle = Bundle.open(report.bundle)
        graphs = [each for each in bundle.manifest.artifacts if each.precision == "int8"]
        digests.add(tuple(sha256_file(bundle.file(each)) for each in graphs))
        scores.add(report.proven["int8"].verification.engine.accuracy.top1)
        gates = [to_dict(gate) for gate in bundle.manifest.gates if gate.precision == "int8"]
        assert len(gates) == len(graphs) > 0
        choices.append([gate["choice"] for gate in gates])
    assert len(digests) == 1
    assert choices[0] == choices[1]
    assert len(scores) == 2, "the change does change what the gate sees"


def test_manifest_and_card_say_on_which_images_what_was_chosen(
    weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    made(weights, faces, tmp_path / "b", "onnxruntime")
    made(tmp_path / "b", faces, tmp_path / "b", "orin-jp62")
    manifest = Bundle.open(tmp_path / "b").manifest
    gates = {
        gate.target: to_dict(gate)
        for gate in manifest.gates
        if (gate.precision, gate.variant) == ("int8", "")
    }
    assert set(gates) == {"onnxruntime", "tensorrt"}
    for gate in gates.values():
        choice = gate["choice"]
        assert choice["images"]["count"] > 64
        assert choice["images"]["calibrated_on"] == 0
        assert {each["method"] for each in choice["methods"]} == {"minmax", "entropy", "percentile"}
        assert choice["trial"]["n"] == choice["images"]["count"]
        assert choice["trial"]["kl_error"] > 0
        assert len(gate["delta_ci95"]) == 2
    assert "half" not in gates["onnxruntime"]["choice"]
    assert gates["tensorrt"]["choice"]["half"] in {"none", "stem", "early", "additions"}
    text = card_markdown(manifest)
    for target in gates:
        assert text.count(f"INT8 for {target}: ") == 1
    assert "chosen by KL divergence and flips against FP32" in text
    assert "PUBLIC judged it once" in text


def test_both_kinds_of_weights_travel_and_each_is_judged(
    weights: Path, faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = Int8Options("stratified-128", "minmax", weights="both")
    report = build(
        weights,
        data=faces,
        output=tmp_path / "b",
        target="onnxruntime",
        int8=options,
        gate=GateOptions(speed=False, policy=ANYTHING),
    )
    bundle = Bundle.open(tmp_path / "b")
    graphs = bundle.graphs("int8", "onnxruntime")
    assert [(each.variant, each.weights, each.path) for each in graphs] == [
        ("", "saturation-safe", "model.int8.onnxruntime.onnx"),
        ("full", "full", "model.int8.onnxruntime.full.onnx"),
    ]
    assert set(report.proven) == {"fp32", "int8", "int8 full"}
    for each in graphs:
        gate = bundle.gate_of(each)
        assert gate is not None
        assert gate.passed
        assert gate.flips is not None
        choice = to_dict(gate)["choice"]
        assert (choice["rounding"], choice["trial"]["n"]) == ("gptq", choice["images"]["count"])
    assert "INT8 for onnxruntime (full): " in card_markdown(bundle.manifest)
    known, answers = fitting_weights, {}
    for features in ({"avx2"}, {"avx2", "avx_vnni"}):
        monkeypatch.setattr(
            "fer_edge.bundle.usable.fitting_weights", lambda _=None, f=features: known(frozenset(f))
        )
        with OnnxRuntimeBackend.from_bundle(bundle) as backend:
            answers[backend.path] = backend.infer(bundle.golden()[0])
            assert "weights: this CPU has" in backend.why
    safe, full = answers.values()
    assert list(answers) == [bundle.file(each) for each in graphs]
    assert not np.array_equal(safe, full)
    # Built again without them, the graph of other ranges does not stay.
    build(
        tmp_path / "b",
        data=faces,
        output=tmp_path / "b",
        target="onnxruntime",
        int8=Int8Options("stratified-128", "minmax", rounding="nearest"),
        gate=GateOptions(verify=False),
    )
    again = Bundle.open(tmp_path / "b")
    assert [each.variant for each in again.graphs("int8", "onnxruntime")] == [""]
    assert [gate.key for gate in again.manifest.gates if gate.variant] == []


def test_tensorrt_has_one_kind_of_weights(weights: Path, faces: FerDataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="full weights only"):
        build(
            weights,
            data=faces,
            output=tmp_path / "b",
            target="orin-jp62",
            int8=Int8Options("stratified-128", "minmax", weights="both"),
            gate=GateOptions(verify=False),
        )


def test_a_small_train_says_what_it_used_instead(
    weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    train = np.flatnonzero(faces.split == Split.TRAIN)
    rest = np.flatnonzero(faces.split != Split.TRAIN)
    small = faces.take(np.concatenate([train[:150], rest]))
    recorder = Recorder()
    report = build(
        weights,
        data=small,
        output=tmp_path / "b",
        target="onnxruntime",
        int8=Int8Options("stratified-128", rounding="nearest"),
        gate=GateOptions(verify=False),
        reporter=recorder,
    )
    assert any("TRAIN with the calibration images" in note for note in report.notes)
    calibration = Bundle.open(tmp_path / "b").manifest.calibration
    assert calibration is not None
    assert calibration["chosen_on"]["calibrated_on"] == 128
