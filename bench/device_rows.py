"""The engines that ``device_check.py`` runs on a machine with a GPU: one row for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.tensorrt import TensorRTBackend, TensorRTDLABackend, TensorRTRTXBackend
from fer_edge.build.choice import without_remainder
from fer_edge.build.device_plan import plan_sources
from fer_edge.build.dla_plan import build_dla_plan
from fer_edge.bundle import Artifact, Bundle
from fer_edge.errors import FerEdgeError
from fer_edge.measure.energy import EnergyRow
from fer_edge.measure.latency import LatencySamples
from fer_edge.progress import Reporter
from fer_edge.trt.builder import plan_from_onnx
from fer_edge.trt.cuda import Wait
from fer_edge.trt.dla import count_cores
from fer_edge.trt.gpu import find_gpu
from fer_edge.trt.lane import LaneOptions
from fer_edge.trt.library import import_tensorrt
from fer_edge.trt.sidecar import PlanSidecar
from fer_edge.trt.targets import load_target

GRAPH, MAPPED = " + CUDA graph", " + CUDA graph, mapped memory"


@dataclass
class Row:
    """One engine: its name, differences from the reference and times, or why it does not run."""

    name: str
    precision: str
    make: Callable[[], Any] = field(repr=False, default=lambda: None)
    status: str = "ok"
    provider: str = ""
    note: str = ""
    max_abs_logit: float | None = None
    mean_abs_logit: float | None = None
    flips: int | None = None
    n: int = 0
    build_seconds: float | None = None
    plan_bytes: int | None = None
    device_p50_ms: float | None = None
    release: str = ""
    energy: tuple[EnergyRow, ...] = ()
    times: LatencySamples | None = None
    against: str = "fp32 on the CPU"
    graph: Artifact | None = None
    where: str = ""

    def to_dict(self) -> dict[str, Any]:
        left_out = {"make", "times", "energy", "graph"}
        content = {key: value for key, value in vars(self).items() if key not in left_out}
        content["energy"] = [each.to_dict() for each in self.energy]
        content["graph"] = self.graph.path if self.graph else None
        return {**content, **(self.times.to_dict() if self.times else {})}


class TorchCuda:
    """PyTorch on the GPU, with pinned copies in and out; with ``graph``, all in one CUDA graph."""

    def __init__(self, weights: Path, *, half: bool, graph: bool) -> None:
        import torch

        from fer_edge.models.weights import model_from_weights

        self.torch = torch
        # TF32 would round every input to 10 bits, so the FP32 row would not be FP32.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        model, described = model_from_weights(weights)
        self.dtype = torch.float16 if half else torch.float32
        self.model: Any = model.eval().cuda().to(self.dtype).to(memory_format=torch.channels_last)
        preprocessing = described.preprocessing
        self.scale = 1.0 / (255.0 * preprocessing.std)
        self.offset = preprocessing.mean / preprocessing.std
        self.source = torch.zeros((1, 1, 48, 48), dtype=torch.uint8).pin_memory()
        self.result = torch.zeros((1, 7), dtype=torch.float32).pin_memory()
        self.graph: Any = None
        kind = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}"
        self.provider = f"{kind}{', CUDA graph' if graph else ''}"
        if graph:
            self._capture()

    def _step(self) -> None:
        torch = self.torch
        with torch.inference_mode():
            pixels = self.source.cuda(non_blocking=True).to(torch.float32)
            images = (pixels * self.scale - self.offset).to(self.dtype)
            self.result.copy_(self.model(images).float(), non_blocking=True)

    def _capture(self) -> None:
        torch = self.torch
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self._step()

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[N,7] for u8[N,1,48,48], image by image."""
        torch = self.torch
        logits = []
        for image in images:
            self.source.numpy()[0] = image
            if self.graph is None:
                self._step()
            else:
                self.graph.replay()
            torch.cuda.current_stream().synchronize()
            logits.append(self.result.numpy()[0].copy())
        return np.stack(logits)

    def close(self) -> None:
        self.graph = self.model = None


def torch_rows(bundle: Bundle) -> Iterator[Row]:
    weights = bundle.find(format="safetensors")
    for half in (False, True):
        for graph in (False, True):
            name = "pytorch + CUDA graph" if graph else "pytorch"
            row = Row(name, "fp16" if half else "fp32")
            if weights is None:
                row.status, row.note = "unavailable", "the bundle has no checkpoint"
            else:
                row.make = partial(TorchCuda, bundle.file(weights), half=half, graph=graph)
            yield row


def onnxruntime_rows(bundle: Bundle) -> Iterator[Row]:
    for provider in ("CPUExecutionProvider", "CUDAExecutionProvider"):
        for precision in ("fp32", "fp16"):
            graph = bundle.graph(precision, "")
            if graph is None:
                continue
            row = Row(f"onnxruntime {provider.removesuffix('ExecutionProvider')}", precision)
            row.make = partial(
                OnnxRuntimeBackend,
                bundle.file(graph),
                precision=precision,
                preprocessing=bundle.preprocessing,
                execution_provider=provider,
            )
            yield row


def tensorrt_rows(
    bundle: Bundle, folder: Path, reporter: Reporter, wait: Wait = "auto"
) -> Iterator[Row]:
    """Build every plan that can be built here; a missing library or graph is also a row."""
    for kind in (TensorRTBackend, TensorRTRTXBackend):
        try:
            import_tensorrt(kind.name)
            profile = load_target(kind.name)
        except FerEdgeError as error:
            yield Row(kind.name, "", status="unavailable", note=str(error))
            continue
        gpu = find_gpu()
        if profile.sm and gpu.sm not in profile.sm:
            supported = ", ".join(f"sm_{sm}" for sm in profile.sm)
            note = f"{profile.name} supports {supported}; this GPU is sm_{gpu.sm}"
            yield Row(kind.name, "", status="unavailable", note=note)
            continue
        for precision in ("fp32", "fp16", "int8"):
            graphs = plan_sources(bundle, precision, profile)
            if not graphs:
                command = bundle.build_command(precision, profile.name)
                note = f"the bundle has no graph for it; to make one: {command}"
                yield Row(kind.name, precision, status="unavailable", note=note)
                continue
            for number, graph in enumerate(graphs):
                # Each graph of a precision: one with FP16 scales may not build (findings).
                name = kind.name
                if len(graphs) > 1:
                    layers = without_remainder(graph.variant)
                    remainder = f"{graph.meta.get('remainder', graph.path)} remainder"
                    name += f" [{', '.join(filter(None, (layers, remainder)))}]"
                plan = folder / f"{kind.name}-{precision}-{number}.plan"
                reporter.note(f"building {name} {precision}")
                try:
                    report = plan_from_onnx(
                        bundle.file(graph), plan, target=profile, precision=precision
                    )
                except FerEdgeError as error:
                    yield Row(name, precision, status="failed", note=str(error))
                    continue
                for row in _plan_rows(kind, plan, report.sidecar, bundle, name, wait):
                    row.graph = graph
                    yield row


def dla_rows(
    bundle: Bundle, folder: Path, reporter: Reporter, wait: Wait = "auto"
) -> Iterator[Row]:
    """Build the plan of this board's DLA, and run it on each core; without one, say why."""
    kind, name = TensorRTDLABackend, "tensorrt (dla)"
    try:
        cores = count_cores(import_tensorrt(kind.package))
        profile = load_target(kind.name)
    except FerEdgeError as error:
        yield Row(name, "int8", status="unavailable", note=str(error))
        return
    graphs = plan_sources(bundle, "int8", profile)
    if not cores or not graphs:
        command = bundle.build_command("int8", profile.name)
        note = f"the bundle has no graph for it; to make one: {command}"
        note = note if cores else "TensorRT finds no DLA here"
        yield Row(name, "int8", status="unavailable", note=note)
        return
    plan = folder / "dla.plan"
    reporter.note(f"building {name} int8")
    try:
        report, _ = build_dla_plan(bundle, graphs[0], plan, profile, reporter)
    except FerEdgeError as error:
        yield Row(name, "int8", status="failed", note=str(error))
        return
    sidecar = report.sidecar
    on_gpu = ", ".join(f"{layer} ({why})" for layer, why in sidecar.gpu_layers.items())
    for core in range(cores):
        title = f"tensorrt (dla{core})"
        for row in _plan_rows(kind, plan, sidecar, bundle, title, wait, core):
            row.graph = graphs[0]
            row.where = f"{sidecar.dla_share:.1%} of the multiply-accumulates on the DLA; "
            row.where += f"on the GPU: {on_gpu or 'nothing'}"
            yield row


def _plan_rows(
    kind: type[TensorRTBackend],
    plan: Path,
    sidecar: PlanSidecar,
    bundle: Bundle,
    name: str,
    wait: Wait,
    dla_core: int | None = None,
) -> Iterator[Row]:
    variants = [
        (GRAPH, LaneOptions(mapped=False, wait=wait, dla_core=dla_core)),
        ("", LaneOptions(graphs=False, mapped=False, wait=wait, dla_core=dla_core)),
    ]
    if find_gpu().integrated:
        variants.append((MAPPED, LaneOptions(mapped=True, wait=wait, dla_core=dla_core)))
    for suffix, options in variants:
        row = Row(f"{name}{suffix}", sidecar.precision)
        row.release = sidecar.tensorrt
        row.build_seconds, row.plan_bytes = sidecar.build_seconds, sidecar.size
        row.make = partial(
            kind,
            plan,
            precision=sidecar.precision,
            preprocessing=bundle.preprocessing,
            options=options,
        )
        yield row
