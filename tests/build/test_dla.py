"""A build for a DLA where there is none: the graph, its gate, the facts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_progress import Recorder

from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import build
from fer_edge.build.steps import Work
from fer_edge.build.target import find_target
from fer_edge.bundle import Bundle
from fer_edge.data import FerDataset
from fer_edge.errors import NumericsError, UsageError
from fer_edge.measure.gate import GatePolicy
from fer_edge.trt.dla import DLA_FACTS, read_dla_facts

ANYTHING = GatePolicy(max_top1_drop=1, max_recall_drop=1, max_recall_drop_small=1, max_flips=1)
SMALL = Int8Options("stratified-128", "minmax")


def test_a_workstation_makes_the_graph_judges_it_and_writes_the_facts(
    weights: Path, faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, out = Recorder(), tmp_path / "b"
    report = build(
        weights,
        data=faces,
        output=out,
        target="orin-jp62-dla",
        int8=SMALL,
        gate=GateOptions(speed=False, policy=ANYTHING),
        reporter=recorder,
    )
    assert report.error is None
    assert report.engine == "model.int8.dla.onnx"
    bundle = Bundle.open(out)
    graph = bundle.artifact(precision="int8", target="dla")
    gate = bundle.gate_of(graph)
    assert gate is not None
    assert gate.passed
    assert bundle.find(precision="fp16") is None
    listed = bundle.artifact(path=DLA_FACTS)
    parent = bundle.parent(listed)
    assert parent == graph
    assert graph.meta["remainder"] == "fp16"
    facts = read_dla_facts(bundle.file(listed))
    assert facts.graph_sha256 == bundle.artifact(format="onnx", precision="fp32").sha256
    assert facts.method == "minmax"
    assert any("--precision int8 --target orin-jp62-dla" in text for text in recorder.notes)
    # On the device the graph is there: the plan alone. TensorRT 11 starts from the same bundle.
    for target in ("orin-jp62-dla", "agx-orin-jp722-dla"):
        recorder.notes.clear()
        build(out, target=target, reporter=recorder)
        assert any("building the plan from it" in text for text in recorder.notes)
    # A graph that fails its gate goes, and its facts with it; no plan has another precision.
    monkeypatch.setattr(Work, "_golden_failure", lambda self, *args: NumericsError("wrong"))
    failed = build(
        out,
        data=faces,
        target="orin-jp62-dla",
        int8=SMALL,
        gate=GateOptions(speed=False, policy=ANYTHING),
        reporter=recorder,
    )
    assert failed.error is not None
    bundle = Bundle.open(out)
    assert failed.use == "fp32"
    assert bundle.find(precision="int8") is None
    assert bundle.find(path=DLA_FACTS) is None


def test_a_dla_has_int8_only_and_a_graph_of_its_own() -> None:
    target = find_target("agx-orin-jp722-dla")
    assert (target.placement, target.remainder, target.fallback) == ("dla", "fp16", "fp32")
    assert find_target("orin-jp62-dla").remainder == "fp16"
    with pytest.raises(UsageError, match="orin-jp62-dla is a DLA, for which plans are INT8") as got:
        build("nothing", precision="fp16", target="orin-jp62-dla")
    assert got.value.fix == "fer-edge build BUNDLE --precision int8 --target orin-jp62-dla"
