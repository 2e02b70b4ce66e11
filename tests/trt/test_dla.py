"""Plans for the DLA of a Jetson, on fakes: what the builder is asked, and where the layers run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart
from fake_tensorrt import DLA_LAYERS, FakeDla, fake_tensorrt, logits_of
from fixtures_progress import Recorder
from msgspec import structs

from fer_edge.backends import tensorrt as backend_module
from fer_edge.backends.tensorrt import TensorRTBackend, TensorRTDLABackend
from fer_edge.build.device_plan import add_plan, prepared_graph
from fer_edge.build.pipeline import _add
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.usable import UsableEngine, WhyNot, usable_engine
from fer_edge.errors import FerEdgeError, GateError, IntegrityError, UnavailableError, UsageError
from fer_edge.files import sha256_bytes
from fer_edge.measure.bench import candidates
from fer_edge.measure.result import BenchRow
from fer_edge.trt import builder, targets
from fer_edge.trt.builder import PlanReport, plan_from_onnx
from fer_edge.trt.cuda_bindings import CudaBindings
from fer_edge.trt.dla import (
    DLA_FACTS,
    DlaFacts,
    count_cores,
    dla_facts_bytes,
    read_dla_facts,
)
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.lane import LaneOptions
from fer_edge.trt.sidecar import PlanSidecar, plan_name, sidecar_path
from fer_edge.trt.targets import TargetProfile, load_target, local_target

ORIN = Gpu("Orin (nvgpu)", 87, "12.6", 8 << 30, True, True, 8, 918)
RANGES = {"normal": 2.0, "stem": 3.0, "stem_relu": 3.0, "main": 3.5, "last": 4.0}
MACS = {"/stem/Conv": 100, "/block/Conv": 890, "/fc/Gemm": 10}
FACTS = DlaFacts(
    schema=1,
    graph_sha256=sha256_bytes(b"dla"),
    calibration_sha256="0" * 64,
    method="entropy",
    ranges=RANGES,
    macs=MACS,
)
IMAGES = np.random.default_rng(7).integers(0, 256, (5, 1, 48, 48), np.uint8)


class Rig:
    """A board with a DLA: a library, and a plan that it builds."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.recorder = folder, Recorder()
        self.cudart = FakeCudart()
        self.trt = fake_tensorrt("10.3.0", streams=self.cudart)
        self.plan = folder / "x.plan"

    @property
    def dla(self) -> FakeDla:
        dla: FakeDla = self.trt.dla
        return dla

    def build(self, facts: DlaFacts = FACTS, word: str = "dla", **options: Any) -> PlanReport:
        source = self.folder / "model.onnx"
        source.write_text(word)
        options = {"target": load_target("orin-jp62-dla"), "precision": "int8", **options}
        return plan_from_onnx(
            source,
            self.plan,
            trt=self.trt,
            gpu=ORIN,
            facts=facts,
            reporter=self.recorder,
            **options,
        )

    def backend(self, kind: type[TensorRTBackend] = TensorRTDLABackend, **options: Any) -> Any:
        return kind(
            self.plan,
            precision="int8",
            trt=self.trt,
            cuda=CudaBindings(self.cudart),
            gpu=ORIN,
            options=LaneOptions(**options),
        )


@pytest.fixture
def rig(tmp_path: Path, private_cache: Path) -> Rig:
    return Rig(tmp_path)


# -- the build ------------------------------------------------------------------------------------


def test_tensorrt_10_gets_the_fp32_graph_the_ranges_and_two_permissions(rig: Rig) -> None:
    report = rig.build()
    seen = rig.trt.seen
    assert seen["ranges"] == RANGES
    assert seen["flags"] == ["FP16", "GPU_FALLBACK", "INT8"]
    assert (seen["device"], seen["core"]) == ("DLA", 0)
    # Not strongly typed: the flag of 10.x that is ignored, instead of STRONGLY_TYPED.
    assert seen["network flags"] == 1 << int(rig.trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    sidecar = report.sidecar
    assert (sidecar.precision, sidecar.strongly_typed) == ("int8", False)
    assert sidecar.batch == {"min": 1, "opt": 1, "max": 1}
    assert sidecar.flags == ["INT8", "FP16", "GPU_FALLBACK", "DLA core 0"]
    assert (sidecar.dla_core, sidecar.dla_share) == (0, 0.99)
    assert sidecar.backend == "tensorrt-dla"
    assert plan_name(sidecar) == "engines/sm87-orin-nvgpu-8sm-8gib-dla-trt10.3.0-int8.plan"
    assert PlanSidecar.read(rig.plan) == sidecar


def test_what_the_dla_cannot_run_stays_on_the_gpu_and_is_named_with_the_reason(rig: Rig) -> None:
    sidecar = rig.build().sidecar
    assert sidecar.dla_layers == ["/stem/Conv", "/stem/Relu", "/block/Conv", "/Add", "/Relu"]
    assert sidecar.gpu_layers == {
        "/Cast": "the DLA cannot run CAST",
        "/Mul": "the DLA cannot run ELEMENTWISE",
        "/GlobalAveragePool": "DLA only supports reduction of MAX.",
        "/fc/Gemm": "the DLA cannot run MATRIX_MULTIPLY",
    }
    (said,) = [note for note in rig.recorder.notes if note.startswith("orin-jp62-dla: ")]
    assert "99.0% of the multiply-accumulates and 5 layers run on the DLA, 4 layers on" in said
    assert "/Cast (the DLA cannot run CAST), /Mul" in said


def test_a_plan_that_runs_on_the_gpu_is_refused_with_its_layers(rig: Rig) -> None:
    """TensorRT gives no error for it: the builder moved a convolution, and told it in its log."""
    rig.plan.write_bytes(b"the plan before")
    rig.dla.warnings.append("/block/Conv: DLA does not support this dilation.")
    rig.dla.warnings.append(
        "Layer '/block/Conv' (CONVOLUTION): Unsupported on DLA. "
        "Switching this layer's device type to GPU."
    )
    rig.dla.lines[1:2] = ["[DlaLayer] {ForeignNode[/stem/Conv.../stem/Relu]}"]
    rig.dla.lines.append("[GpuLayer] CONVOLUTION: /block/Conv + /Add + /Relu")
    with pytest.raises(GateError) as caught:
        rig.build()
    text = str(caught.value)
    assert "10.0% of its multiply-accumulates run on the DLA, at least 90% have to" in text
    assert "on the GPU: /block/Conv (DLA does not support this dilation.), /fc/Gemm (the " in text
    assert caught.value.exit_code == 3
    assert rig.plan.read_bytes() == b"the plan before"
    assert not sidecar_path(rig.plan).exists()


@pytest.mark.parametrize(
    ("lines", "share"),
    [
        # One layer in each entry; older releases name no type.
        (["[DlaLayer] {ForeignNode[/stem/Conv]}", "[DlaLayer] {ForeignNode[/block/Conv]}"], 0.99),
        (["[DlaLayer] {/stem/Conv,/stem/Relu}, {/block/Conv}", "[GpuLayer] /fc/Gemm"], 0.99),
        (["[DlaLayer] {ForeignNode[/stem/Conv.../Relu]}"], 0.99),
        # A layer that both lists name runs on the GPU.
        (["[DlaLayer] {ForeignNode[/stem/Conv.../Relu]}", "[GpuLayer] /block/Conv + /Relu"], 0.1),
        # A node of the GPU's own compiler, with the same notation.
        (
            [
                "[DlaLayer] {ForeignNode[/stem/Conv.../Relu]}",
                "[GpuLayer] MYELIN: {ForeignNode[/block/Conv.../fc/Gemm]}",
            ],
            0.1,
        ),
        # A name that is part of another, and ends that no layer has.
        (["[DlaLayer] {ForeignNode[/block/Conv_1]}"], 0.0),
        (["[DlaLayer] {ForeignNode[/stem/Conv.../other]}"], 0.0),
        (["---------- Layers Running on DLA ----------"], 0.0),
        ([], 0.0),
    ],
)
def test_the_lists_of_the_builder_are_read(rig: Rig, lines: list[str], share: float) -> None:
    rig.dla.lines = lines
    if share >= 0.9:
        assert rig.build().sidecar.dla_share == share
        return
    with pytest.raises(GateError, match=f"refused: {share:.1%} of its multiply-accumulates"):
        rig.build()


def test_without_lists_the_inspector_is_asked_and_without_both_the_plan_is_refused(
    rig: Rig,
) -> None:
    rig.dla.lines = []
    with pytest.raises(GateError, match=r"/block/Conv \(the builder does not say where it runs\)"):
        rig.dla.layers = []
        rig.build()
    rig.dla.layers = [
        {"Name": "{ForeignNode[/stem/Conv.../Relu]}", "LayerType": "DLA"},
        {"Name": "/fc/Gemm", "LayerType": "gemm"},
    ]
    assert rig.build().sidecar.dla_share == 0.99
    # Names alone say nothing of the device.
    rig.dla.layers = ["{ForeignNode[/stem/Conv.../Relu]}"]
    with pytest.raises(GateError, match=r"/block/Conv \(the builder chose the GPU\)"):
        rig.build()


def test_a_layer_that_can_run_on_dla_refuses_is_not_counted_there(rig: Rig) -> None:
    rig.dla.refused.add("/block/Conv")
    with pytest.raises(GateError, match=r"10\.0%.*/block/Conv \(the DLA cannot run CONVOLUTION\)"):
        rig.build()


def test_layers_that_tensorrt_renames_are_not_counted(rig: Rig) -> None:
    facts = structs.replace(FACTS, macs={**MACS, "/other/Conv": 5000})
    with pytest.raises(GateError, match=r"/other/Conv \(TensorRT has no layer of this name\)"):
        rig.build(facts)


@pytest.mark.parametrize("cores", [0, 1])
def test_a_board_without_the_core_is_an_error(rig: Rig, cores: int) -> None:
    rig.dla.cores = cores
    target = load_target("orin-jp62-dla")
    assert target.dla is not None
    target = structs.replace(target, dla=structs.replace(target.dla, core=1))
    with pytest.raises(UnavailableError, match=f"finds {cores} DLA cores here, and core 1"):
        rig.build(target=target)
    assert not rig.plan.exists()


@pytest.mark.parametrize(
    ("facts", "error", "said"),
    [
        (structs.replace(FACTS, graph_sha256="1" * 64), IntegrityError, "of another FP32 graph"),
        (structs.replace(FACTS, ranges={"gone": 1.0}), UsageError, "has no tensor 'gone'"),
        (structs.replace(FACTS, ranges={"main": 0.0}), UsageError, "refuses the range 0 of the"),
    ],
)
def test_ranges_of_another_graph_are_refused(
    rig: Rig, facts: DlaFacts, error: type[FerEdgeError], said: str
) -> None:
    with pytest.raises(error, match=said):
        rig.build(facts)
    assert not rig.plan.exists()


def test_tensorrt_11_gets_q_dq_and_says_itself_why_a_node_is_refused(rig: Rig) -> None:
    rig.trt = fake_tensorrt("11.4.1", streams=rig.cudart)
    sidecar = rig.build(word="dla-int8", target=load_target("agx-orin-jp722-dla")).sidecar
    seen = rig.trt.seen
    assert seen["ranges"] == {}
    assert seen["flags"] == ["GPU_FALLBACK"]
    assert seen["parser flags"] == ["ADJUST_FOR_DLA", "REPORT_CAPABILITY_DLA"]
    assert sidecar.strongly_typed
    assert sidecar.flags == ["GPU_FALLBACK", "DLA core 0", "ADJUST_FOR_DLA"]
    assert sidecar.gpu_layers["/GlobalAveragePool"] == ("the layer is not supported on DLA: a mean")


# -- the facts ------------------------------------------------------------------------------------


def test_the_facts_are_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / DLA_FACTS
    path.write_bytes(dla_facts_bytes(FACTS))
    assert read_dla_facts(path) == FACTS


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"schema": 2}, UsageError),
        ({"ranges": {"main": -1}}, IntegrityError),
        ({"macs": {"/stem/Conv": 0.5}}, IntegrityError),
        ({"graph_sha256": "x"}, IntegrityError),
    ],
)
def test_damaged_facts_are_refused(
    tmp_path: Path, change: dict[str, Any], error: type[FerEdgeError]
) -> None:
    path = tmp_path / DLA_FACTS
    path.write_text(json.dumps({**json.loads(dla_facts_bytes(FACTS)), **change}))
    with pytest.raises(error, match=DLA_FACTS):
        read_dla_facts(path)


# -- running a plan -------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "core"), [(None, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("kind", [TensorRTDLABackend, TensorRTBackend])
def test_the_core_is_chosen_before_the_plan_is_loaded(
    rig: Rig, kind: type[TensorRTBackend], asked: int | None, core: int
) -> None:
    rig.build()
    rig.dla.core_of_runtime = None
    with rig.backend(kind, dla_core=asked) as backend:
        assert rig.dla.core_of_runtime == core
        assert backend.unit == f"dla{core}"
        assert f"sm_87, DLA core {core}, CUDA graphs" in backend.provider
        assert np.array_equal(backend.infer(IMAGES), logits_of(IMAGES))  # one by one
    assert rig.cudart.alive() == {}


def test_a_core_that_is_not_there_is_an_error(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.build()
    rig.dla.cores = 1
    with pytest.raises(UnavailableError, match="finds no core 1 here, but 1") as caught:
        rig.backend(dla_core=1).load()
    assert caught.value.fix == "FER_EDGE_TENSORRT=dla=0"
    # The fix works.
    monkeypatch.setenv("FER_EDGE_TENSORRT", "dla=0")
    assert LaneOptions.from_environment().dla_core == 0
    with rig.backend(dla_core=0):
        pass
    rig.dla.cores = 0
    with pytest.raises(UnavailableError, match="finds no core 0 here, but 0") as caught:
        rig.backend().load()
    assert caught.value.fix == "build for the GPU: --target tensorrt"


def test_sidecars_of_earlier_versions_are_plans_of_the_gpu(rig: Rig) -> None:
    rig.build()
    path = sidecar_path(rig.plan)
    content = json.loads(path.read_text())
    for name in ("dla_core", "dla_share", "dla_layers", "gpu_layers"):
        del content[name]
    path.write_text(json.dumps(content))
    rig.dla.core_of_runtime = None
    with rig.backend(TensorRTBackend) as backend:
        assert backend.unit == ""
        assert "DLA" not in backend.provider
    assert PlanSidecar.read(rig.plan).backend == "tensorrt"
    assert "dla" not in plan_name(PlanSidecar.read(rig.plan))


@pytest.mark.parametrize(("cores", "reason"), [(0, "TensorRT finds no DLA here (Orin"), (2, None)])
def test_a_board_without_dla_says_so(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, cores: int, reason: str | None
) -> None:
    rig.dla.cores = cores
    assert count_cores(rig.trt) == cores
    monkeypatch.setattr(backend_module, "import_tensorrt", lambda name: rig.trt)
    monkeypatch.setattr(backend_module, "gpu_or_reason", lambda: (ORIN, ""))
    monkeypatch.setattr(backend_module, "find_gpu", lambda: ORIN)
    monkeypatch.setattr(backend_module, "cuda_missing_reason", lambda: None)
    found = TensorRTDLABackend.unavailable_reason()
    assert (found or "").startswith(reason or "")
    assert (found is None) is (reason is None)
    assert TensorRTBackend.unavailable_reason() is None


# -- targets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "typed", "takes", "refuses"),
    [
        ("orin-jp62-dla", False, "10.3.0.30", "10.8.0"),
        ("orin-jp62-dla", False, "10.7.0.23", "8.6.2"),
        ("agx-orin-jp722-dla", True, "11.4.1", "11.4.0.106"),
    ],
)
def test_the_targets_of_the_dla(name: str, typed: bool, takes: str, refuses: str) -> None:
    target = load_target(name)
    assert (target.backend, target.placement) == ("tensorrt-dla", "dla")
    assert target.strongly_typed is typed
    assert target.accepts(takes)
    assert not target.accepts(refuses)


@pytest.mark.parametrize(
    "change", [{"precision": "fp16"}, {"build": {"max_batch": 4, "workspace_mib": 1, "level": 1}}]
)
def test_a_target_of_the_dla_has_one_batch_and_one_precision(change: dict[str, Any]) -> None:
    import msgspec

    content = msgspec.to_builtins(load_target("orin-jp62-dla")) | change
    with pytest.raises(msgspec.ValidationError, match="the precision int8 and max_batch 1"):
        msgspec.convert(content, TargetProfile)


@pytest.mark.parametrize(
    ("release", "gpu_target", "dla_target"),
    [("10.3.0", "orin-jp62", "orin-jp62-dla"), ("10.16.2", "orin-jp72", None)],
)
def test_the_dla_is_taken_only_if_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, release: str, gpu_target: str, dla_target: str | None
) -> None:
    monkeypatch.setattr(targets.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(targets, "import_tensorrt", lambda name: fake_tensorrt(release))
    monkeypatch.setattr(targets, "gpu_or_reason", lambda: (ORIN, ""))
    assert local_target().name == gpu_target
    if dla_target is not None:
        assert load_target("tensorrt-dla").name == dla_target
        return
    with pytest.raises(UnavailableError, match=r"no target of a DLA fits TensorRT 10\.16\.2"):
        load_target("tensorrt-dla")


# -- in a bundle ----------------------------------------------------------------------------------


@pytest.fixture
def board(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """This machine is the board; it builds plans and does not run them."""
    monkeypatch.setattr(TargetProfile, "why_not_here", lambda self: None)
    monkeypatch.setattr(builder, "import_tensorrt", lambda name: rig.trt)
    monkeypatch.setattr(builder, "find_gpu", lambda: ORIN)
    no = classmethod(lambda cls: "no CUDA in this test")
    monkeypatch.setattr(TensorRTBackend, "unavailable_reason", no)
    monkeypatch.setattr(TensorRTBackend, "_here", classmethod(lambda cls: ("10.3.0", 87)))
    return rig


def with_dla_graph(bundle: Bundle, facts: Callable[[str], DlaFacts] | None = None) -> Bundle:
    """Replace the FP32 graph by the word dla, and add the INT8 graph and the facts."""
    with BundleWriter(bundle.path, base=bundle) as writer:
        fp32 = bundle.artifact(format="onnx", precision="fp32")
        writer.add_bytes(b"dla", fp32.path, format="onnx", precision="fp32")
        writer.add_bytes(
            b"dla-int8",
            "model.int8.dla.onnx",
            format="onnx",
            precision="int8",
            target="dla",
            parent=fp32.path,
        )
        if facts is not None:
            content = dla_facts_bytes(facts("dla"))
            writer.add_bytes(
                content, DLA_FACTS, format="json", target="dla", parent="model.int8.dla.onnx"
            )
    return Bundle.open(bundle.path)


def test_a_bundle_has_the_plan_and_only_the_dla_takes_it(tiny_bundle: Bundle, board: Rig) -> None:
    bundle = with_dla_graph(tiny_bundle, lambda word: FACTS)
    target = load_target("orin-jp62-dla")
    graph = prepared_graph(bundle, "int8", target)
    assert graph is not None
    assert graph.path == "model.int8.dla.onnx"
    assert prepared_graph(bundle, "int8", load_target("orin-jp62")) is None
    # Also where plans of the GPU would be timed, FP16 ones too: nothing is chosen for a DLA.
    name = _add(bundle.path, "int8", target, board.recorder, speed=True).name
    assert "-dla-" in name
    bundle = Bundle.open(bundle.path)
    plan = bundle.artifact(format="plan", precision="int8", target="tensorrt-dla")
    assert plan.path == name
    assert plan.meta["dla_share"] == 0.99
    parent = bundle.parent(plan)
    assert parent is not None
    assert parent.path == DLA_FACTS
    used = usable_engine(bundle, TensorRTDLABackend)
    assert isinstance(used, UsableEngine)
    assert used.artifact == plan
    assert isinstance(usable_engine(bundle, TensorRTBackend), WhyNot)
    # Its row of bench is there because of the plan, and named after the core.
    names = [candidate.row.backend for candidate in candidates([bundle])]
    assert names.count("tensorrt-dla") == 1
    assert BenchRow("tensorrt-dla", "int8", "ok", unit="dla0").name == "tensorrt (dla0) int8"
    # Another calibration: the plan of the old ranges goes.
    with BundleWriter(bundle.path, base=bundle) as writer:
        other = dla_facts_bytes(structs.replace(FACTS, method="minmax"))
        writer.add_bytes(other, DLA_FACTS, format="json", target="dla", parent=graph)
    assert name in writer.dropped
    rows = candidates([Bundle.open(bundle.path)])
    assert "tensorrt-dla" not in [candidate.row.backend for candidate in rows]
    asked = candidates([Bundle.open(bundle.path)], ["tensorrt-dla"])
    assert [candidate.row.backend for candidate in asked] == ["null", "tensorrt-dla"]


def test_a_refused_plan_leaves_the_bundle_as_it_was(tiny_bundle: Bundle, board: Rig) -> None:
    bundle = with_dla_graph(tiny_bundle, lambda word: FACTS)
    before = (bundle.path / "manifest.json").read_bytes()
    board.dla.lines = ["[GpuLayer] {ForeignNode[/Cast.../fc/Gemm]}"]
    with pytest.raises(GateError, match=r"refused: 0\.0% of its multiply-accumulates"):
        add_plan(bundle.path, "int8", load_target("orin-jp62-dla"))
    assert (bundle.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("facts", "error", "said"),
    [
        (None, UsageError, "has no model.int8.dla.json"),
        (
            lambda word: replace_digest(word),
            IntegrityError,
            "has the ranges of another FP32 graph than this bundle's",
        ),
    ],
)
def test_a_bundle_without_its_facts_is_refused(
    tiny_bundle: Bundle,
    board: Rig,
    facts: Callable[[str], DlaFacts] | None,
    error: type[FerEdgeError],
    said: str,
) -> None:
    bundle = with_dla_graph(tiny_bundle, facts)
    with pytest.raises(error, match=said):
        add_plan(bundle.path, "int8", load_target("orin-jp62-dla"))


def replace_digest(word: str) -> DlaFacts:
    return structs.replace(FACTS, graph_sha256=sha256_bytes(word.encode() + b"?"))


def test_a_dla_takes_int8_only(tiny_bundle: Bundle, board: Rig) -> None:
    with pytest.raises(UsageError, match="plans are INT8, not fp16") as caught:
        add_plan(tiny_bundle.path, "fp16", load_target("orin-jp62-dla"))
    assert caught.value.fix == "fer-edge build BUNDLE --precision int8 --target orin-jp62-dla"


def test_the_fake_has_the_layers_that_the_tests_name() -> None:
    names = {name for name, _, _ in DLA_LAYERS}
    assert set(MACS) <= names
    assert set(RANGES) <= {result for _, _, result in DLA_LAYERS}
