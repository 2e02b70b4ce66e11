"""The DLA of a Jetson: the ranges that it needs, how a build asks for it, which layers run there.

TensorRT moves a layer that the DLA cannot run to the GPU without an error. So a build counts: the
library says which layers run where, and the share of the multiply-accumulates decides.

TensorRT 10.3 to 10.7 (JetPack 6) takes the FP32 graph and the range of each tensor; 11.4.1 takes
the graph with Q/DQ pairs. Neither torch nor onnx is imported: this module runs on the device.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from msgspec import Meta

from fer_edge.errors import GateError, IntegrityError, UnavailableError, UsageError
from fer_edge.files import read_json
from fer_edge.records import Count, NonNegative, Record, Sha256, check_schema, read_record, to_dict
from fer_edge.trt.library import MessageLog, message_log
from fer_edge.trt.parser_errors import parser_errors

__all__ = [
    "DLA_FACTS",
    "SCHEMA",
    "Dla",
    "DlaBuild",
    "DlaFacts",
    "Whereabouts",
    "adjust_parser",
    "check_graph",
    "configure",
    "count_cores",
    "dla_facts_bytes",
    "read_dla_facts",
    "set_ranges",
]

SCHEMA = 1
"""The schema of the facts."""
DLA_FACTS = "model.int8.dla.json"
"""Their name in a bundle."""
_NAMED = 5
"""Layers that an error names; the sidecar has all."""


class Dla(Record, frozen=True):
    """What a target profile says of the DLA.

    ``core`` is the one that a plan is built for and runs on unless another is asked for. A plan is
    refused if less than ``share`` of its multiply-accumulates run on the DLA.
    """

    core: Annotated[int, Meta(ge=0, le=1)]
    share: Annotated[float, Meta(gt=0, le=1)]


class DlaFacts(Record, frozen=True):
    """What a build for a DLA needs of a network, beside its graph: one JSON file in the bundle.

    ``ranges`` are those of the INT8 graph with the placement ``dla``: each tensor is represented
    from -range to range. ``macs`` are the multiply-accumulates of each node that has any, for one
    image. ``graph_sha256`` is the digest of the FP32 graph.
    """

    schema: int
    graph_sha256: Sha256
    calibration_sha256: str
    method: str
    ranges: dict[str, NonNegative]
    macs: dict[str, Count]


def dla_facts_bytes(facts: DlaFacts) -> bytes:
    """Return the JSON of ``facts``."""
    return (json.dumps(to_dict(facts), indent=1) + "\n").encode()


def read_dla_facts(path: Path) -> DlaFacts:
    """Read the facts; :class:`IntegrityError` if they are damaged."""
    content = read_json(path)
    check_schema(content, SCHEMA, str(path))
    return read_record(DlaFacts, content, str(path))


def check_graph(facts: DlaFacts, sha256: str, where: str) -> None:
    """Raise :class:`IntegrityError` unless ``facts`` are those of the FP32 graph of ``sha256``."""
    if facts.graph_sha256 != sha256:
        raise IntegrityError(
            f"{where} has the ranges of another FP32 graph than this bundle's",
            fix="build its INT8 graph again where there are torch and the data",
        )


@dataclass(frozen=True)
class Whereabouts:
    """Which layers of a plan run on the DLA, and which on the GPU with the reason.

    ``share`` is the part of the multiply-accumulates that run on the DLA.
    """

    dla: tuple[str, ...]
    gpu: Mapping[str, str]
    share: float
    heavy: tuple[str, ...]
    """The layers with multiply-accumulates that do not run on the DLA, largest first."""

    def describe(self) -> str:
        """Return one line for a person."""
        text = f"{self.share:.1%} of the multiply-accumulates and {len(self.dla)} layers run on "
        text += f"the DLA, {len(self.gpu)} layers on the GPU"
        return f"{text}: {_listed(self.gpu)}" if self.gpu else text

    def to_dict(self) -> dict[str, Any]:
        """Return the fields of a plan's sidecar."""
        share = round(self.share, 4)
        return {"dla_share": share, "dla_layers": [*self.dla], "gpu_layers": {**self.gpu}}

    def check(self, wanted: float, source: str) -> None:
        """Raise :class:`GateError` if less than the ``wanted`` share runs on the DLA."""
        if self.share >= wanted:
            return
        left = {name: self.gpu[name] for name in self.heavy}
        raise GateError(
            f"the plan of {source} is refused: {self.share:.1%} of its multiply-accumulates run on "
            f"the DLA, at least {wanted:.0%} have to; on the GPU: {_listed(left)}",
            fix="build for the GPU: --target tensorrt",
        )


def _listed(layers: Mapping[str, str]) -> str:
    shown = [f"{name} ({reason})" for name, reason in [*layers.items()][:_NAMED]]
    more = len(layers) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def count_cores(trt: ModuleType) -> int:
    """Return the number of DLA cores that the library finds; needs a GPU and its driver."""
    logger, _ = message_log(trt)
    runtime = trt.Runtime(logger)
    return int(runtime.num_DLA_cores)


def adjust_parser(trt: ModuleType, parser: Any) -> list[str]:
    """Let the parser rewrite layers for the DLA, where it can (TensorRT 11.4); return the flag."""
    if not hasattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA"):
        return []
    parser.set_flag(trt.OnnxParserFlag.ADJUST_FOR_DLA)
    return ["ADJUST_FOR_DLA"]


def configure(trt: ModuleType, builder: Any, config: Any, core: int) -> list[str]:
    """Ask for DLA ``core`` with the GPU as a fallback; return the flags that were set.

    Without the fallback no plan of ours can be built: the pixels are converted on the GPU.
    :class:`UnavailableError` if the board has no such core.
    """
    cores = int(builder.num_DLA_cores)
    if cores <= core:
        raise UnavailableError(
            f"TensorRT finds {cores} DLA cores here, and core {core} was asked for: Orin NX and "
            "AGX Orin have a DLA, Orin Nano and Thor have none",
            fix="build for the GPU: --target tensorrt",
        )
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    return ["GPU_FALLBACK", f"DLA core {core}"]


def set_ranges(network: Any, facts: DlaFacts, source: str) -> None:
    """Give each tensor its range, for a builder that takes no Q/DQ pairs (TensorRT 10).

    A tensor without one stays in floating point, as in the INT8 graph. :class:`UsageError` if a
    range belongs to no tensor of the network, or is refused.
    """
    left = dict(facts.ranges)
    for tensor in _tensors(network):
        limit = left.pop(str(tensor.name), None)
        if limit is not None and not tensor.set_dynamic_range(-limit, limit):
            raise UsageError(
                f"TensorRT refuses the range {limit:g} of the tensor {tensor.name} of {source}",
                fix="calibrate again: fer-edge build RUN --precision int8, for this target",
            )
    if left:
        raise UsageError(
            f"{source} has no tensor {next(iter(left))!r}, for which the calibration has a range",
            fix="build its INT8 graph again where there are torch and the data",
        )


def _tensors(network: Any) -> Iterable[Any]:
    for i in range(network.num_inputs):
        yield network.get_input(i)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        for j in range(layer.num_outputs):
            yield layer.get_output(j)


@dataclass(frozen=True)
class DlaBuild:
    """What the library says of the DLA's layers before a build, and how the build's lists are read.

    ``refused`` are the layers that the DLA cannot run, with their kind; ``reasons`` are the
    parser's words on nodes (TensorRT 11.4). ``wanted`` is what the target says.
    """

    wanted: Dla
    trt: ModuleType
    refused: Mapping[str, str]
    reasons: Mapping[str, str]

    @classmethod
    def ask(
        cls,
        wanted: Dla,
        trt: ModuleType,
        builder: Any,
        config: Any,
        network: Any,
        content: bytes,
        flags: int,
    ) -> DlaBuild:
        """Ask the library; ``content`` is the ONNX file, ``flags`` are those of the network."""
        refused = _refused_layers(trt, config, network)
        return cls(wanted, trt, refused, _capability(trt, builder, config, content, flags))

    def whereabouts(
        self, network: Any, facts: DlaFacts, log: MessageLog, inspected: Any = None
    ) -> Whereabouts:
        """Return where the layers of a plan run, from what the builder logged.

        ``inspected`` is the engine inspector's JSON, which is asked where the log has no list. In
        doubt, a layer runs on the GPU: one that no list names, or both do.
        """
        trt = self.trt
        constant = trt.LayerType.CONSTANT
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        names = [str(layer.name) for layer in layers if layer.type != constant]
        on_dla, on_gpu = _entries(log, inspected)
        elsewhere = set(_covered(names, on_gpu))
        dla = set(_covered(names, on_dla)) - elsewhere - set(self.refused)
        gpu = {name: self._reason(name, log, elsewhere) for name in names if name not in dla}
        gpu |= {n: "TensorRT has no layer of this name" for n in facts.macs if n not in names}
        total = sum(facts.macs.values())
        share = sum(facts.macs.get(name, 0) for name in dla) / total if total else 0.0
        heavy = sorted((n for n in facts.macs if n not in dla), key=lambda n: -facts.macs[n])
        return Whereabouts(tuple(n for n in names if n in dla), gpu, share, tuple(heavy))

    def _reason(self, name: str, log: MessageLog, elsewhere: Collection[str]) -> str:
        """Return why a layer runs on the GPU: the parser's words, the builder's, or its kind."""
        if name in self.reasons:
            return self.reasons[name]
        whole = re.compile(rf"(?<![\w/.]){re.escape(name)}(?![\w/.])")
        said = [text for text in log.warnings() if "DLA" in text and whole.search(text)]
        # The reason comes first; then, for every such layer, that its device is switched.
        said.sort(key=lambda text: bool(re.search("[Ss]witching|falling back", text)))
        if said:
            return " ".join(said[0].removeprefix(f"{name}: ").split())
        kind = self.refused.get(name)
        if kind:
            return f"the DLA cannot run {kind}"
        chosen = name in elsewhere
        return "the builder chose the GPU" if chosen else "the builder does not say where it runs"


def _refused_layers(trt: ModuleType, config: Any, network: Any) -> dict[str, str]:
    """Return the layers that the DLA cannot run, with their kind; constants are left out."""
    refused = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        if layer.type != trt.LayerType.CONSTANT and not config.can_run_on_DLA(layer):
            refused[str(layer.name)] = str(layer.type).rpartition(".")[2]
    return refused


def _capability(
    trt: ModuleType, builder: Any, config: Any, content: bytes, flags: int
) -> dict[str, str]:
    """Return what TensorRT 11.4's parser says of the nodes that the DLA cannot run.

    It reports them as errors, so the graph is parsed once more for this. {} in earlier releases.
    """
    if not hasattr(trt.OnnxParserFlag, "REPORT_CAPABILITY_DLA"):
        return {}
    logger, log = message_log(trt)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    parser.set_flag(trt.OnnxParserFlag.REPORT_CAPABILITY_DLA)
    if not parser.set_builder_config(config):
        return {}
    parser.supports_model_v2(content)
    said = parser_errors(parser, log.errors())
    return {each.node: " ".join(each.text.split()) for each in said if each.node}


_ENTRY = re.compile(r"\[(Dla|Gpu)Layer\] (?:[A-Z][A-Z0-9_]*: )?(.+)")
_SPLIT = re.compile(r" \+ | \|\| |, ?|[{}()]")


def _entries(log: MessageLog, inspected: Any) -> tuple[list[str], list[str]]:
    """Return the lists of the DLA's and the GPU's layers, fused as the library names them."""
    found: dict[str, list[str]] = {"Dla": [], "Gpu": []}
    for message in log.messages:
        for kind, entry in _ENTRY.findall(message.text):
            found[kind].append(entry.strip())
    if not (found["Dla"] or found["Gpu"]) and isinstance(inspected, dict):
        for layer in inspected.get("Layers", ()):
            facts = layer if isinstance(layer, dict) else {"Name": layer}
            kind = "Dla" if "dla" in str(facts.get("LayerType", "")).lower() else "Gpu"
            found[kind].append(str(facts.get("Name", "")))
    return found["Dla"], found["Gpu"]


def _covered(names: Sequence[str], entries: Iterable[str]) -> Iterable[str]:
    """Return the layers of entries such as ``{ForeignNode[conv1...relu9]}`` or ``conv1 + relu1``.

    The first form names the first and the last layer, in the order of the network.
    """
    known = {name: at for at, name in enumerate(names)}
    for entry in entries:
        node = re.search(r"ForeignNode\[(.+)\]", entry)
        first, dots, last = (node[1] if node else "").partition("...")
        if dots and first in known and last in known:
            yield from names[known[first] : known[last] + 1]
        parts = [node[1]] if node else [entry, *_SPLIT.split(entry)]
        yield from (part for part in parts if part in known)
