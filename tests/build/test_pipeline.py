"""The whole build: sources, bundles, proofs, failures and what they leave behind."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fixtures_builds import QUICK, SMALL, gate
from fixtures_progress import Recorder

from fer_edge.backends import backend_class
from fer_edge.build import choosing
from fer_edge.build.options import CALIBRATION, GateOptions, Int8Options
from fer_edge.build.pipeline import BuildReport, build
from fer_edge.build.source import find_source
from fer_edge.build.target import find_target
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.usable import require_engine
from fer_edge.data import FerDataset
from fer_edge.errors import UsageError
from fer_edge.files import sha256_file
from fer_edge.measure.bench import run_bench
from fer_edge.measure.environment import capture
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.measure.record import record_bench
from fer_edge.measure.verification import measured_speedup, verify_bundle
from fer_edge.models import weights as weights_file
from fer_edge.models.header import header_of
from fer_edge.models.weights import load_weights, save_weights
from fer_edge.progress import Reporter
from fer_edge.records import to_dict
from fer_edge.report.card import card_markdown

pytestmark = pytest.mark.usefixtures("timed")

UNVERIFIED = GateOptions(verify=False)


def test_an_int8_build_makes_a_verified_bundle(
    built: BuildReport, weights: Path, faces: FerDataset
) -> None:
    assert (built.asked, built.use, built.error) == ("int8", "int8", None)
    assert built.engine == "model.int8.onnxruntime.onnx"
    bundle = Bundle.open(built.bundle)
    checkpoint = bundle.artifact(format="safetensors")
    fp32 = bundle.artifact(format="onnx", precision="fp32")
    int8 = bundle.artifact(format="onnx", precision="int8", target="onnxruntime")
    assert checkpoint.sha256 == sha256_file(weights)
    assert (fp32.parent_sha256, int8.parent_sha256) == (checkpoint.sha256, fp32.sha256)
    manifest = bundle.manifest
    assert manifest.synthetic
    assert to_dict(manifest.input) == {
        "name": "images",
        "dtype": "uint8",
        "shape": ["N", 1, 48, 48],
    }
    assert manifest.model.name == "compact"
    assert (manifest.model.parameters or 0) > 0
    assert (manifest.model.macs or 0) > 0
    assert manifest.calibration is not None
    assert manifest.calibration["count"] == 128
    assert manifest.calibration["method"] == "minmax"
    assert manifest.dataset.sha256 == faces.sha256
    assert manifest.card.limits
    assert int8.meta["quantised"]
    assert int8.meta["excluded"] == []
    for precision, target in (("fp32", ""), ("int8", "onnxruntime")):
        proof = gate(bundle, precision, target)
        assert proof["passed"] is True
        assert proof["n"] == len(faces.select("public"))
        assert proof["dataset_sha256"] == faces.select("public").sha256
    assert gate(bundle, "int8", "onnxruntime")["speedup"] == 2.0
    speedup = measured_speedup(bundle, "onnxruntime", "int8", capture(1))
    assert speedup is not None
    assert (speedup.ratio, speedup.over) == (2.0, "fp32")
    assert "in the build of" in speedup.source
    assert gate(bundle, "int8", "onnxruntime")["attempts"][0]["failure"] == ""
    assert gate(bundle, "fp32")["max_abs_logit"] <= 1e-4


def test_the_golden_answers_are_the_references(built: BuildReport) -> None:
    from fer_edge.backends import backend_from_bundle
    from fer_edge.backends.selftest import self_test

    bundle = Bundle.open(built.bundle)
    images, logits = bundle.golden()
    assert images.shape == (32, 1, 48, 48)
    for precision in ("fp32", "int8"):
        with backend_from_bundle(bundle, "onnxruntime", precision) as backend:
            self_test(backend, bundle)
    with backend_from_bundle(bundle, "pytorch", "fp32") as reference:
        assert np.abs(reference.infer(images) - logits).max() < 1e-5


def test_build_verify_and_bench_agree_on_one_bundle(own: Path, faces: FerDataset) -> None:
    bundle = Bundle.open(own)
    recorded = gate(bundle, "int8", "onnxruntime")
    verified = verify_bundle(bundle, faces, precision="int8")
    once = LatencyProtocol(warmup_s=0, warmup_queries=1, measure_s=0, min_queries=2, repeats=1)
    result = run_bench(
        [bundle], faces, backends=["onnxruntime"], precisions=["fp32", "int8"], protocol=once
    )
    benched = result.find("onnxruntime", "int8")
    assert benched is not None
    side, agreement = verified.engine, verified.agreement
    assert recorded["top1"] == side.accuracy.top1 == benched.top1
    assert benched.accuracy == side.accuracy.to_dict()
    assert recorded["flips"] == agreement.flips == benched.flips
    assert recorded["agreement"] == agreement.agreement == benched.agreement
    assert recorded["max_abs_logit"] == agreement.max_abs_logit
    assert result.reference == "pytorch fp32"
    # The verdict: verify has no timing of its own, it judges by the build's, then by the bench's.
    assert verified.speedup_source == f"beside fp32 in the build of {recorded['created']} (quick)"
    assert recorded["checks"] == verified.gate.to_dict()["checks"]
    assert recorded["status"] == verified.gate.status == "passed"
    for milliseconds, status in ((1.0, "passed"), (9.0, "failed")):
        ns = np.full(9, round(milliseconds * 1e6), np.int64)
        rows = tuple(
            row.with_latency(LatencySamples((ns if row is benched else 0 * ns + 3_000_000,)))
            for row in result.rows
        )
        assert record_bench(own, benched.bundle, replace(result, rows=rows)) is None
        again = verify_bundle(Bundle.open(own), faces, precision="int8")
        assert again.gate.status == status
        assert again.speedup_source == f"bench of {result.created}"


def test_other_engines_are_added_to_the_bundle(own: Path, faces: FerDataset) -> None:
    build(own, precision="fp16", data=faces, target="onnxruntime")
    report = build(own, data=faces, target="openvino", int8=SMALL)
    assert report.use == "int8"
    bundle = Bundle.open(own)
    held = {(a.precision, a.target) for a in bundle.manifest.artifacts if a.format == "onnx"}
    assert held == {("fp32", ""), ("fp16", ""), ("int8", "onnxruntime"), ("int8", "openvino")}
    assert gate(bundle, "fp16")["passed"]
    assert gate(bundle, "int8", "openvino")["backend"] == "openvino"
    assert gate(bundle, "int8", "onnxruntime")["passed"]
    # The last build was of another precision or target: that does not change what is used.
    for backend in ("onnxruntime", "openvino"):
        assert require_engine(bundle, backend_class(backend)).precision == "int8"
    assert "use" not in to_dict(bundle.manifest.model)
    assert report.ranges is not None
    assert report.ranges.cached, "both INT8 graphs have one calibration"


def test_engines_of_earlier_weights_leave_no_verification(
    own: Path, weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    trained = load_weights(weights)
    state = {name: 1.01 * value for name, value in trained.state.items()}
    later = tmp_path / "later.safetensors"
    save_weights(later, state, trained.spec, trained.preprocessing, trained.info)
    text = json.loads((own / "verify.json").read_text())["verifications"]
    assert {one["engine"]["precision"] for one in text} == {"fp32", "int8"}
    report = build(later, precision="fp16", data=faces, output=own, target="onnxruntime")
    assert report.use == "fp16"
    held = {artifact.sha256 for artifact in Bundle.open(own).manifest.artifacts}
    left = json.loads((own / "verify.json").read_text())["verifications"]
    assert {one["engine"]["precision"] for one in left} == {"fp32", "fp16"}
    assert {one["engine"]["artifact_sha256"] for one in left} <= held
    assert {one["reference"]["artifact_sha256"] for one in left} <= held


def test_without_verification_it_says_so(weights: Path, faces: FerDataset, tmp_path: Path) -> None:
    report = build(weights, data=faces, output=tmp_path / "b", gate=UNVERIFIED, **QUICK)
    assert report.proven == {}
    bundle = Bundle.open(tmp_path / "b")
    for precision, target in (("fp32", ""), ("int8", "onnxruntime")):
        proof = gate(bundle, precision, target)
        assert proof["passed"] is None
        assert proof["status"] == "not verified"
        assert "--no-verify" in proof["reason"]
    assert bundle.find(path="verify.json") is None


def test_fp32_needs_no_data_when_nothing_is_verified(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FER_EDGE_DATA", raising=False)
    build(
        weights,
        precision="fp32",
        output=tmp_path / "b",
        gate=UNVERIFIED,
        target="onnxruntime",
    )
    with pytest.raises(UsageError, match="no data set"):
        build(
            weights,
            precision="int8",
            output=tmp_path / "c",
            gate=UNVERIFIED,
            target="onnxruntime",
        )
    assert not (tmp_path / "c").exists()


def test_a_graph_for_those_who_normalise_themselves(
    weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    report = build(weights, data=faces, output=tmp_path / "b", input="f32", **QUICK)
    assert report.error is None
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.manifest.input.dtype == "float32"
    assert gate(bundle, "int8", "onnxruntime")["passed"]


def test_from_an_onnx_file_the_graph_is_the_reference(
    fp32: Path, faces: FerDataset, tmp_path: Path
) -> None:
    src = Path(shutil.copy(fp32, tmp_path / "net.onnx"))
    report = build(src, data=faces, **QUICK)
    assert report.bundle == tmp_path / "net-bundle"
    bundle = Bundle.open(report.bundle)
    assert bundle.find(format="safetensors") is None
    assert bundle.artifact(precision="fp32").sha256 == sha256_file(fp32)
    assert bundle.manifest.name == "net"
    assert bundle.manifest.synthetic
    verification = report.proven["int8"].verification
    assert verification.reference.backend == "onnxruntime"
    assert any("not PyTorch" in note for note in verification.notes)


@pytest.mark.parametrize(("kind", "parses", "reads"), [("weights", 0, 2), ("onnx", 1, 0)])
def test_one_build_reads_the_weights_and_parses_the_graph_once(
    kind: str,
    parses: int,
    reads: int,
    weights: Path,
    fp32: Path,
    faces: FerDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The exporter has the graph already. The weights are read by it and by the reference."""
    parsed: list[bytes] = []
    opened: dict[str, int] = {"header": 0, "tensors": 0}
    from_bytes, read, header = onnx.load_model_from_string, weights_file.load, header_of

    def parse(content: bytes, *args: Any, **options: Any) -> Any:
        parsed.append(content)
        return from_bytes(content, *args, **options)

    def open_tensors(*args: Any, **options: Any) -> Any:
        opened["tensors"] += 1
        return read(*args, **options)

    def open_header(content: bytes, path: Path) -> Any:
        opened["header"] += 1
        return header(content, path)

    monkeypatch.setattr(onnx, "load_model_from_string", parse)
    monkeypatch.setattr(weights_file, "load", open_tensors)
    monkeypatch.setattr(weights_file, "header_of", open_header)
    # All methods and roundings are tried, the layers are ranked, one is left out.
    monkeypatch.setattr(choosing, "MAX_FLIPS", -1.0)
    report = build(
        weights if kind == "weights" else fp32,
        data=faces,
        output=tmp_path / "b",
        target="orin-jp62",
        int8=Int8Options("stratified-128", "auto", retries=1),
    )
    assert report.int8 is not None
    assert report.int8.costs
    assert report.int8.choice.roundings
    assert Bundle.open(tmp_path / "b").find(precision="fp16")
    graph = (tmp_path / "b" / "model.fp32.onnx").read_bytes()
    assert parsed.count(graph) == parses
    assert opened == {"header": reads, "tensors": reads}


def test_a_bundle_without_weights_keeps_what_it_records_of_the_network(
    built: BuildReport, faces: FerDataset, tmp_path: Path
) -> None:
    """Such a bundle is in the package: only graphs, to be small."""
    original = Bundle.open(built.bundle)
    before, graph = original.manifest, original.artifact(precision="fp32")
    small = tmp_path / "small"
    with BundleWriter(small) as writer:
        writer.add_file(original.file(graph), graph.path, format="onnx", precision="fp32")
        writer.set(name="small", model=before.model, dataset=before.dataset, card=before.card)
    build(small, precision="fp16", data=faces, target="onnxruntime")
    after = Bundle.open(small).manifest
    assert after.model.macs
    assert after.model == before.model
    assert after.dataset == before.dataset
    assert after.card.training == before.card.training


def test_a_recipe_that_is_named_is_not_the_default() -> None:
    assert Int8Options().is_default
    for changed in (Int8Options(CALIBRATION), Int8Options(method="auto"), Int8Options(exclude="a")):
        assert not changed.is_default


# -- failures ------------------------------------------------------------------------------------


def test_a_device_elsewhere_gets_all_but_its_plan(
    weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    recorder = Recorder()
    report = build(
        weights,
        data=faces,
        target="orin-jp62",
        output=tmp_path / "b",
        int8=SMALL,
        reporter=recorder,
    )
    assert report.error is None
    assert report.engine == "model.int8.tensorrt.onnx"
    bundle = Bundle.open(tmp_path / "b")
    int8 = bundle.artifact(precision="int8", target="tensorrt")
    assert int8.meta["remainder"] == "fp16"
    assert bundle.artifact(precision="fp16")
    judged = gate(bundle, "int8", "tensorrt")
    assert judged["status"] == "speed not measured"
    why = "a plan for orin-jp62 runs on its device: run fer-edge bench there"
    assert judged["reason"] == f"speed not measured: {why}"
    assert judged["reason"] in report.notes
    assert any("--target orin-jp62" in text for text in recorder.notes)
    # On the device the graph is there already: no data, no export, the plan alone.
    recorder.notes.clear()
    build(tmp_path / "b", target="orin-jp62", reporter=recorder)
    assert any("building the plan from it" in text for text in recorder.notes)


def test_targets_by_name() -> None:
    recorder = Recorder()
    assert find_target("openvino").backend == "openvino"
    assert find_target(None, recorder).name in {"onnxruntime", "tensorrt"}
    assert recorder.notes[0].startswith("target ")
    assert find_target("orin-jp60").remainder == "fp32"
    with pytest.raises(UsageError, match="unknown target 'onxruntime'") as caught:
        find_target("onxruntime")
    assert caught.value.fix == "did you mean 'onnxruntime'?"


def test_sources(weights: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "runs" / "mine"
    run.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no trained run") as caught:
        find_source(None)
    assert "fer-edge train" in str(caught.value.fix)
    (run / "run.json").write_text("{}")
    with pytest.raises(UsageError, match="no weights yet"):
        find_source("mine")
    shutil.copy(weights, run / "model.safetensors")
    for named in (None, "mine", run):
        found = find_source(named)
        assert found.weights is not None
        assert found.weights.resolve() == run / "model.safetensors"
        assert (found.name, found.output.resolve()) == ("mine", run / "bundle")
    given = find_source(own)
    assert given.given is not None
    assert given.output == own
    assert find_source(own, tmp_path / "else").output == tmp_path / "else"
    with pytest.raises(UsageError, match=r"there is no run, .* 'nowhere'"):
        find_source("nowhere")
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="is not a run, bundle, weights file or ONNX file"):
        find_source(tmp_path / "notes.txt")


def test_wrong_precision(weights: Path) -> None:
    with pytest.raises(UsageError, match="no precision 'int4'"):
        build(weights, precision="int4", target="onnxruntime")


def test_weights_that_change_while_building_do_not_mix(
    weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    """A run that still trains replaces its weights each epoch."""
    training = tmp_path / "model.safetensors"
    shutil.copyfile(weights, training)
    before = sha256_file(training)

    class EpochEnds(Reporter):
        def note(self, text: str) -> None:
            training.write_bytes(b"the next epoch's")

    report = build(
        training, precision="fp32", target="onnxruntime", data=faces, reporter=EpochEnds()
    )
    bundle = Bundle.open(report.bundle)
    assert bundle.artifact(format="safetensors").sha256 == before
    assert report.proven["fp32"].gate.passed


def test_the_card_of_a_graph_from_elsewhere_claims_nothing(
    faces: FerDataset, fp32: Path, tmp_path: Path
) -> None:
    model = onnx.load(fp32)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "theirs.onnx")
    build(tmp_path / "theirs.onnx", precision="fp32", target="onnxruntime", data=faces)
    bundle = tmp_path / "theirs-bundle"
    # Built upon, it still claims nothing.
    build(bundle, precision="fp16", target="onnxruntime", data=faces)
    card = Bundle.open(bundle).manifest.card
    assert str(card.licence).startswith("unknown")
    assert "training data and training are unknown" in card.limits
    assert card.biases == ()
    text = card_markdown(Bundle.open(bundle).manifest)
    assert "Apache" not in text
    assert "fitted on TRAIN" not in text
    ours = tmp_path / "ours.onnx"
    shutil.copy(fp32, ours)
    build(ours, precision="fp32", target="onnxruntime", data=faces)
    assert "Apache" in str(Bundle.open(tmp_path / "ours-bundle").manifest.card.licence)
