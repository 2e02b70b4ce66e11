"""From a graph in a bundle to its plan: on the device, and the messages on other machines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from fixtures_progress import Recorder

from fer_edge.backends.tensorrt import TensorRTBackend, TensorRTRTXBackend
from fer_edge.build.device_plan import add_plan, prepared_graph
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.errors import IntegrityError, UnavailableError, UsageError
from fer_edge.models import MODELS
from fer_edge.trt.builder import plan_from_onnx
from fer_edge.trt.sidecar import PlanSidecar
from fer_edge.trt.targets import load_target


@pytest.fixture
def bundle(tiny_bundle: Bundle) -> Bundle:
    return tiny_bundle


@pytest.mark.tensorrt_rtx
def test_a_plan_is_added_to_the_bundle_with_its_chain(rtx: ModuleType, bundle: Bundle) -> None:
    recorder = Recorder()
    name = add_plan(bundle.path, "fp32", load_target("tensorrt-rtx"), reporter=recorder)
    assert name == f"engines/rtx-trt{rtx.__version__}-fp32.plan"
    after = Bundle.open(bundle.path)
    plan = after.artifact(format="plan", precision="fp32", target="tensorrt-rtx")
    assert plan.path == name
    parent = after.parent(plan)
    assert parent is not None
    assert parent.format == "onnx"
    sidecar = PlanSidecar.read(after.file(plan))
    assert sidecar.sha256 == plan.sha256
    assert sidecar.parent_sha256 == parent.sha256 == plan.parent_sha256
    assert after.unlisted() == []
    assert recorder.notes
    assert recorder.notes[0].startswith(("the plan was built but not run", "self-test passed"))
    # Plain: nothing is put before the plan's own bytes.
    with pytest.raises(UsageError, match="no int8 plan"):
        TensorRTRTXBackend.from_bundle(after, "int8")
    with pytest.raises(UsageError, match="no fp32 plan for tensorrt"):
        TensorRTBackend.from_bundle(after, "fp32")


@pytest.mark.tensorrt_rtx
def test_a_flipped_byte_in_a_plan_is_refused(rtx: ModuleType, bundle: Bundle) -> None:
    name = add_plan(bundle.path, "fp32", load_target("tensorrt-rtx"))
    path = bundle.path / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError):
        Bundle.open(bundle.path)


@pytest.mark.tensorrt_rtx
def test_a_new_graph_drops_the_plan_that_was_built_from_the_old(
    rtx: ModuleType, bundle: Bundle
) -> None:
    name = add_plan(bundle.path, "fp32", load_target("tensorrt-rtx"))
    opened = Bundle.open(bundle.path)
    graph = opened.artifact(format="onnx", precision="fp32")
    changed = opened.file(graph).read_bytes() + b"\x12\x00"  # an empty domain: another digest
    with BundleWriter(opened.path, base=opened) as writer:
        writer.add_bytes(changed, graph.path, format="onnx", precision="fp32")
    assert name in writer.dropped
    assert not (bundle.path / name).exists()


def test_another_machine_does_not_pretend(bundle: Bundle) -> None:
    profile = load_target("orin-jp62")
    if profile.why_not_here() is None:
        pytest.skip("this is an Orin with JetPack 6.2")
    before = (bundle.path / "manifest.json").read_bytes()
    recorder = Recorder()
    assert add_plan(bundle.path, "fp32", profile, reporter=recorder) == ""
    assert recorder.notes[0].startswith("the plan itself is not built here: orin-jp62 ")
    assert recorder.notes[1] == (
        f"on the device: fer-edge build {bundle.path.name} --precision fp32 --target orin-jp62"
    )
    assert (bundle.path / "manifest.json").read_bytes() == before


@pytest.mark.tensorrt_rtx
def test_a_missing_graph_names_the_build_command(rtx: ModuleType, bundle: Bundle) -> None:
    with pytest.raises(UsageError) as caught:
        add_plan(bundle.path, "int8", load_target("tensorrt-rtx"))
    assert "--precision int8" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("target", "remainder", "found"),
    [
        ("orin-jp62", "fp16", True),
        ("orin-jp62", "fp32", True),
        ("orin-jp60", "fp32", True),
        ("orin-jp60", "fp16", False),
    ],
)
def test_8_6_gets_no_fp16_scales(bundle: Bundle, target: str, remainder: str, found: bool) -> None:
    with BundleWriter(bundle.path, base=bundle) as writer:
        writer.add_bytes(
            b"graph",
            "model.int8.tensorrt.onnx",
            format="onnx",
            precision="int8",
            target="tensorrt",
            meta={"remainder": remainder},
        )
    graph = prepared_graph(Bundle.open(bundle.path), "int8", load_target(target))
    assert (graph is not None) is found


DEVICE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "onnx", "onnxconverter_common", "safetensors"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from fer_edge.cli import main
main(["build", sys.argv[1], "--precision", "fp32", "--target", "tensorrt-rtx"])
"""


@pytest.mark.tensorrt_rtx
def test_the_device_needs_neither_torch_nor_onnx_nor_data(rtx: ModuleType, bundle: Bundle) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "FER_EDGE_DATA"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", DEVICE, str(bundle.path)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((bundle.path / "engines").glob("*.plan"))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Path]]:
    """``zoo(model)``: a fresh network's graphs by precision, INT8 with both remainders."""
    torch = pytest.importorskip("torch", reason="pip install 'fer-edge[train]'")
    from fer_edge.convert.export import onnx_from_weights
    from fer_edge.convert.fp16 import fp16_from_onnx
    from fer_edge.data import load, load_calibration_recipe, select_calibration
    from fer_edge.models import ModelSpec, build_model
    from fer_edge.models.weights import save_weights
    from fer_edge.preprocessing import Preprocessing
    from fer_edge.quantize.int8 import int8_from_onnx
    from fer_edge.quantize.ranges import ranges_from_onnx

    made: dict[str, dict[str, Path]] = {}

    def get(model: str) -> dict[str, Path]:
        if model in made:
            return made[model]
        folder = tmp_path_factory.mktemp(model)
        files = {kind: folder / f"{kind}.onnx" for kind in ("fp32", "fp16", "int8", "int8-fp32")}
        torch.manual_seed(0)
        spec = ModelSpec(model)
        save_weights(folder / "w.safetensors", build_model(spec), spec, Preprocessing())
        onnx_from_weights(folder / "w.safetensors", files["fp32"])
        fp16_from_onnx(files["fp32"], files["fp16"])
        dataset = load("synthetic:400")
        calibration = select_calibration(dataset, load_calibration_recipe("stratified-128"))
        ranges = ranges_from_onnx(files["fp32"], dataset, calibration)
        int8_from_onnx(files["fp32"], files["int8"], ranges, "tensorrt", remainder="fp16")
        int8_from_onnx(files["fp32"], files["int8-fp32"], ranges, "tensorrt", remainder="fp32")
        made[model] = files
        return files

    return get


@pytest.mark.tensorrt_rtx
@pytest.mark.slow
@pytest.mark.parametrize("model", sorted(MODELS))
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8", "int8-fp32"])
def test_every_network_of_the_zoo_builds_in_every_precision(
    rtx: ModuleType,
    zoo: Callable[[str], dict[str, Path]],
    tmp_path: Path,
    model: str,
    kind: str,
) -> None:
    target = load_target("tensorrt-rtx")
    report = plan_from_onnx(zoo(model)[kind], tmp_path / "x.plan", target=target)
    assert report.sidecar.precision == kind.partition("-")[0]
    assert report.sidecar.size > 100_000


def test_a_backend_without_its_library_says_so(bundle: Bundle) -> None:
    reason = TensorRTBackend.unavailable_reason()
    if reason is None:
        pytest.skip("TensorRT can run here")
    plan = bundle.path / "x.plan"
    plan.write_bytes(b"")
    with pytest.raises((UnavailableError, IntegrityError)):
        TensorRTBackend(plan).load()
