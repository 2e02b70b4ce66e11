"""FP32 ONNX + ranges -> where its INT8 graph rounds, as a setup that training can follow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.build.source import find_source
from fer_edge.build.steps import Work
from fer_edge.build.target import find_target
from fer_edge.convert.graph import Graph, affine_input, read_graph, wiring
from fer_edge.errors import UsageError, require
from fer_edge.files import temporary_folder
from fer_edge.progress import SILENT, Reporter
from fer_edge.quantize.choice import WEIGHTED, choose
from fer_edge.quantize.placement import placement_for
from fer_edge.quantize.ranges import Ranges
from fer_edge.runs.qat import Grid, Operation, QatSetup
from fer_edge.training.fake_quant import OPERATORS

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["qat_setup", "setup_from_weights"]


def setup_from_weights(
    weights: Path,
    dataset: FerDataset,
    target: str,
    *,
    reporter: Reporter = SILENT,
) -> QatSetup:
    """Export a weights file, calibrate it as a build does by default, and return the setup.

    ``target`` is any of :func:`fer_edge.build.target.find_target`; only TRAIN is used.
    """
    chosen = find_target(target)
    with temporary_folder("qat") as folder:
        source = find_source(weights, folder)
        work = Work.start(source, chosen, folder, reporter=reporter)
        ranges = work.calibrate(dataset).ranges
        half = chosen.remainder == "fp16"
        return qat_setup(work.network.graph, ranges, chosen.placement, half_scales=half)


def qat_setup(
    src: Graph | Path | str, ranges: Ranges, placement: str, *, half_scales: bool = False
) -> QatSetup:
    """Return the setup of ``src``, a graph of pixels, as :func:`int8_from_onnx` quantises it.

    :class:`UsageError` for a graph with operators that cannot be fine-tuned.
    """
    model = read_graph(src).model
    wires = wiring(model)
    rules = placement_for(placement)
    choice = choose(model, wires, ranges, rules, {}, half_scales=half_scales)
    affine = affine_input(model, wires)
    if affine is None:
        raise UsageError(
            "only a graph that takes pixels and normalises them itself can be fine-tuned for INT8",
            fix="give the run or the weights that it was made from",
        )
    operations, weights, steps = [], {}, {}
    for node in model.graph.node:
        if node.name in affine.nodes:
            continue
        mine = choice.chosen.get(node.name, ())
        operations.append(
            Operation(
                name=node.name,
                operator=_known(node, wires.constants),
                inputs=tuple(node.input),
                output=node.output[0],
                attributes=_attributes(node),
                # As the INT8 graph is wired, where whole groups fuse and where they do not.
                quantised=tuple(
                    name in choice.params and (name in mine or rules.outputs) for name in node.input
                ),
            )
        )
        if node.name in choice.chosen and node.op_type in WEIGHTED:
            weights[node.input[1]] = rules.weight_scales
            raw = choice.raw is not None and node.input[0] == choice.raw.tensor
            x = choice.raw_params if raw else choice.params[node.input[0]]
            if rules.bias == "int32":
                steps[node.name] = float(x.scale)
    low, high = (0, 255) if rules.activation == "uint8" else (-128, 127)
    return QatSetup(
        placement=placement,
        method=ranges.method,
        input=affine.tensor,
        output=wires.outputs[0],
        operations=tuple(operations),
        grids={
            name: Grid(float(params.scale), int(params.zero), low, high)
            for name, params in choice.params.items()
        },
        weights=dict(weights),
        ranges=dict(ranges.values),
        bias_steps=steps,
        half_scales=half_scales,
        shift=affine.offset + choice.raw_params.zero * float(choice.raw_params.scale)
        if choice.raw
        else 0.0,
    )


def _known(node: Any, constants: Any) -> str:
    kind = str(node.op_type)
    constant_inputs = [name for name in node.input[1:] if name in constants]
    if (
        kind not in OPERATORS
        or len(node.output) != 1
        or (constant_inputs and kind not in {"Conv", "Gemm"})
    ):
        raise UsageError(
            f"{node.name} is {kind}{' with a constant' if constant_inputs else ''}, "
            "which cannot be "
            "fine-tuned for INT8",
            fix="build it without fine-tuning: fer-edge build; "
            f"what can be fine-tuned: {', '.join(OPERATORS)}",
        )
    return kind


def _attributes(node: Any) -> dict[str, Any]:
    onnx = require("onnx", "build")
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    return {
        name: value.decode() if isinstance(value, bytes) else value
        for name, value in attributes.items()
    }
