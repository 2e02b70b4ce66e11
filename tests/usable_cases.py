"""Bundles of every combination of graphs, plans and gates, for ``fer_edge.bundle.usable``.

The files contain no network, since the rule only reads the manifest and the JSON beside a plan.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.files import sha256_bytes
from fer_edge.trt.sidecar import PlanSidecar

__all__ = ["HERE", "Case", "cases", "make_bundle"]

HERE = ("10.3.0.26", 87)
"""TensorRT release and compute capability of the machine in these cases."""

Gates = tuple[tuple[str, str, bool | None], ...]
Variants = tuple[tuple[str, str, bool | None], ...]


@dataclass(frozen=True)
class Case:
    """One bundle and one question. A plan is (precision, TensorRT, compute capability).

    ``variants`` are INT8 graphs of the backend: variant, kind of weights, what its gate says.
    ``tflite`` names precisions of files for LiteRT, which the C++ runner cannot run. ``chosen``:
    the plans were kept of several that a device timed.
    """

    backend: str
    precision: str | None = None
    graphs: tuple[tuple[str, str], ...] = (("fp32", ""),)
    plans: tuple[tuple[str, str, int], ...] = ()
    gates: Gates = ()
    checkpoint: bool = False
    variants: Variants = ()
    tflite: tuple[str, ...] = ()
    chosen: bool = False


def cases() -> Iterator[Case]:
    """Yield the cases of the backends that the C++ runner has too."""
    yield from _graph_cases()
    yield from _weights_cases()
    yield from _plan_cases()


def make_bundle(path: Path, case: Case) -> Bundle:
    """Write the bundle of a case."""
    with BundleWriter(path) as writer:
        if case.checkpoint:
            writer.add_bytes(b"weights", "checkpoint.safetensors", format="safetensors")
        for precision, target in case.graphs:
            writer.add_bytes(
                f"{precision} {target}".encode(),
                f"model.{precision}{target and '.'}{target}.onnx",
                format="onnx",
                precision=precision,
                target=target,
            )
        for precision in case.tflite:
            name = f"model.{precision}.litert.tflite"
            kinds = {"format": "tflite", "precision": precision, "target": "litert"}
            writer.add_bytes(precision.encode(), name, **kinds)
            writer.add_gate({"precision": precision, "target": "litert", "passed": True})
        for variant, weights, passed in case.variants:
            writer.add_bytes(
                f"{variant} {weights}".encode(),
                f"model.int8.{case.backend}{variant and '.'}{variant}.onnx",
                format="onnx",
                precision="int8",
                target=case.backend,
                variant=variant,
                meta={"weights": f"int8 symmetric per channel, {weights}"} if weights else {},
            )
            gate = {"precision": "int8", "target": case.backend, "variant": variant}
            writer.add_gate({**gate, "passed": passed})
        for precision, release, sm in case.plans:
            _add_plan(writer, precision, release, sm, case)
        for precision, target, passed in case.gates:
            writer.add_gate({"precision": precision, "target": target, "passed": passed})
    return Bundle.open(path)


def _add_plan(writer: BundleWriter, precision: str, release: str, sm: int, case: Case) -> None:
    name = f"engines/sm{sm}-trt{release}-{precision}"
    content = name.encode()
    sidecar = PlanSidecar(
        package="tensorrt",
        tensorrt=release,
        sm=sm,
        gpu="",
        target="",
        precision=precision,
        parent_sha256="",
        sha256=sha256_bytes(content),
        size=len(content),
        batch={"min": 1, "opt": 1, "max": 1},
        input={},
        output={},
        build_seconds=0,
        created="",
        dla_core=0 if case.backend == "tensorrt-dla" else None,
    )
    writer.add_bytes(
        content,
        f"{name}.plan",
        format="plan",
        precision=precision,
        target=case.backend,
        meta={"choice": {"candidates": []}} if case.chosen else {},
    )
    writer.add_bytes(json.dumps(sidecar.to_dict()).encode(), f"{name}.json", format="json")


def _graph_cases() -> Iterator[Case]:
    own, other = ("int8", "openvino"), ("int8", "onnxruntime")
    quantised: list[tuple[tuple[tuple[str, str], ...], Gates]] = [
        ((), ()),
        ((), (("int8", "openvino", False),)),
        ((own,), ()),
        ((own,), (("int8", "openvino", True),)),
        ((own,), (("int8", "openvino", None),)),
        ((own,), (("int8", "openvino", False),)),
        ((own,), (("int8", "onnxruntime", False),)),
        ((own,), (("int8", "", False),)),
        ((other,), (("int8", "onnxruntime", True),)),
    ]
    floats: list[tuple[tuple[tuple[str, str], ...], Gates]] = [
        (((name, ""),), ((name, "", passed),))
        for name in ("fp16", "fp32")
        for passed in (True, False)
    ]
    none: tuple[tuple[tuple[str, str], ...], Gates] = ((), ())
    for int8, fp16, fp32 in itertools.product(quantised, (none, *floats[:2]), (none, *floats[2:])):
        graphs, gates = int8[0] + fp16[0] + fp32[0], int8[1] + fp16[1] + fp32[1]
        yield Case("openvino", graphs=graphs, gates=gates)
    for precision in ("int8", "fp16", "fp32"):
        for graphs, gates in quantised:
            yield Case("openvino", precision, graphs, gates=gates, checkpoint=True)
    for asked in (None, "int8", "fp32"):
        for graphs in ((), (own,), (("fp32", ""),)):
            yield Case("openvino", asked, graphs, tflite=("fp32", "int8"))


def _weights_cases() -> Iterator[Case]:
    fp32 = (("fp32", ""),)
    kinds = (("", "saturation-safe"), ("full", "full"))
    for verdicts in itertools.product((True, False, None), repeat=2):
        variants = tuple((*kind, passed) for kind, passed in zip(kinds, verdicts))
        for precision in (None, "int8"):
            yield Case("openvino", precision, fp32, variants=variants)
    # The order in the manifest does not decide, except between graphs of one kind.
    yield Case("openvino", None, fp32, variants=(("full", "full", True), ("", "full", True)))
    yield Case(
        "openvino", None, fp32, variants=(("", "full", True), ("s", "saturation-safe", True))
    )
    # Bundles of earlier versions have one graph, of either kind, and perhaps no word about it.
    for weights in ("saturation-safe", "full", ""):
        yield Case("openvino", None, fp32, variants=(("", weights, True),))


def _plan_cases() -> Iterator[Case]:
    plans: list[tuple[tuple[str, int], ...]] = [
        (),
        (HERE,),
        (("10.3.0", 90),),
        (("10.13.3", 87), ("10.3.0", 90)),
        (("10.3.0", 90), HERE),
    ]
    for int8, fp16 in itertools.product(plans, plans[:3]):
        made = (*(("int8", *each) for each in int8), *(("fp16", *each) for each in fp16))
        for graph, int8_passed, fp16_passed in itertools.product(
            (False, True), (True, False), (True, False)
        ):
            graphs = (("fp32", ""), ("fp16", ""), *((("int8", "tensorrt"),) if graph else ()))
            gates = (("int8", "tensorrt", int8_passed), ("fp16", "", fp16_passed))
            yield Case("tensorrt", None, graphs, made, gates)
        for precision in ("int8", "fp16", "fp32"):
            yield Case("tensorrt", precision, (("fp32", ""),), made)
    # INT8 was not faster there, so the FP16 plan was kept.
    for int8_graph, precision in itertools.product((False, True), (None, "int8", "fp16", "fp32")):
        graphs = (("fp32", ""), ("fp16", ""), *((("int8", "tensorrt"),) if int8_graph else ()))
        yield Case("tensorrt", precision, graphs, (("fp16", *HERE),), chosen=True)
    failed = tuple((name, "", False) for name in ("int8", "fp16", "fp32"))
    yield Case("tensorrt", None, (("fp32", ""), ("fp16", "")), (), failed)
    yield Case("tensorrt", None, (), (), ())
    # A DLA has INT8 only, with the gate of its own graph.
    fp32 = ("fp32", "")
    for made, precision in itertools.product(plans, (None, "int8", "fp16")):
        for passed in (True, False):
            gates = (("int8", "dla", passed), ("int8", "tensorrt", not passed))
            dla = tuple(("int8", *each) for each in made)
            yield Case("tensorrt-dla", precision, (fp32, ("int8", "dla")), dla, gates)
            yield Case("tensorrt-dla", precision, (fp32, ("int8", "tensorrt")), dla, gates)
