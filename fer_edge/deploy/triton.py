"""Bundle -> model repository of Triton Inference Server.

Layout and fields: NVIDIA's docs/user_guide/model_repository.md and model_configuration.md. Each
model takes pixels ([1,48,48], the batch is Triton's) and gives logits; ``labels.txt`` names them
for Triton's classification extension.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fer_edge.backends import backend_class
from fer_edge.bundle import Artifact, Bundle
from fer_edge.bundle.swap import new_folder, refuse_taken
from fer_edge.bundle.usable import BEST_FIRST, engines_of, require_engine
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import sha256_file
from fer_edge.preprocessing import SIZE
from fer_edge.records import to_dict
from fer_edge.trt.library import short_version
from fer_edge.trt.sidecar import PlanSidecar

__all__ = ["CONFIG", "LABELS", "TritonModel", "triton_from_bundle"]

CONFIG = "config.pbtxt"
"""The name of Triton's configuration file."""
LABELS = "labels.txt"
"""The name of the file with the classes."""
DEFAULT_MAX_BATCH = 64
"""Of the ONNX model, whose batch is free; a plan's is that of its optimisation profile."""

_QUEUE_DELAY_US = 100
_TYPES = {
    "uint8": "TYPE_UINT8",
    "float32": "TYPE_FP32",
    "float": "TYPE_FP32",
    "half": "TYPE_FP16",
}


@dataclass(frozen=True)
class TritonModel:
    """One model of the repository: its name, its folder, which files of the bundle it serves."""

    name: str
    folder: Path
    backend: str
    precision: str
    max_batch: int
    sources: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Tensor:
    name: str
    type: str
    dims: tuple[int, ...]


@dataclass(frozen=True)
class _Served:
    """What one model folder is written from: file in version 1 -> the bundle's artifact."""

    model: TritonModel
    platform: str
    input: _Tensor
    output: _Tensor
    files: dict[str, Artifact]
    by_capability: dict[str, str]
    cpu: bool = False


def triton_from_bundle(
    bundle: Bundle,
    out: Path | str,
    *,
    precision: str | None = None,
    max_batch: int = DEFAULT_MAX_BATCH,
    replace: bool = False,
) -> tuple[TritonModel, ...]:
    """Write an ONNX Runtime model, and a TensorRT one if the bundle has plans, into ``out``.

    ``out`` is the repository: other models in it do not change, and with ``replace`` new models
    replace earlier ones of the same name. ``precision`` None takes the best whose gate
    has not failed, for each model by itself (:mod:`fer_edge.bundle.usable`).

    :class:`UsageError` if the bundle has no such engine or a model of that name exists.
    """
    served = [_onnx_model(bundle, Path(out), precision, max_batch)]
    plans = _plan_model(bundle, Path(out), precision)
    if plans is not None:
        served.append(plans)
    if not replace:
        for entry in served:
            if entry.model.folder.exists():
                raise UsageError(
                    f"{entry.model.folder} exists already",
                    fix="name another repository with -o, or add --replace",
                )
    for entry in served:
        _write(entry, bundle, replace)
    return tuple(entry.model for entry in served)


def _onnx_model(bundle: Bundle, out: Path, precision: str | None, max_batch: int) -> _Served:
    if max_batch < 1:
        raise UsageError(f"a batch holds at least one image, not {max_batch}")

    # The server may have another CPU than this machine: its INT8 graph fits every CPU.
    engine = require_engine(bundle, backend_class("onnxruntime"), precision, here=False)
    assert engine.artifact is not None
    chosen, artifact = engine.precision, engine.artifact
    notes: tuple[str, ...] = ()
    if chosen == "int8":
        notes = ("INT8 is shaped for ONNX Runtime on CPUs, so this model runs on the CPU",)
    name = f"{_model_name(bundle)}_onnx"
    manifest = bundle.manifest
    return _Served(
        TritonModel(name, out / name, "onnxruntime", chosen, max_batch, (artifact.path,), notes),
        platform="onnxruntime_onnx",
        input=_tensor(to_dict(manifest.input), (1, SIZE, SIZE)),
        output=_tensor(to_dict(manifest.output), (len(bundle.labels),)),
        files={"model.onnx": artifact},
        by_capability={},
        cpu=chosen == "int8",
    )


def _plan_model(bundle: Bundle, out: Path, precision: str | None) -> _Served | None:
    kind = backend_class("tensorrt")
    by_precision = {
        name: engines_of(bundle, kind, name)
        for name in (BEST_FIRST if precision is None else (precision,))
    }
    if not any(by_precision.values()):
        return None
    # The plans run on the servers: whether this machine can load them does not matter.
    chosen = require_engine(bundle, kind, precision, here=False).precision
    plans = by_precision[chosen]
    newest: dict[int, tuple[tuple[int, ...], Artifact, PlanSidecar]] = {}
    notes = []
    for plan in plans:
        sidecar = PlanSidecar.read(bundle.file(plan))
        sm = sidecar.sm or 0
        version = tuple(int(part) for part in short_version(sidecar.tensorrt).split("."))
        if sm in newest and newest[sm][0] > version:
            notes.append(f"{plan.path} is left out: there is one of a newer TensorRT")
            continue
        if sm in newest:
            notes.append(f"{newest[sm][1].path} is left out: there is one of a newer TensorRT")
        newest[sm] = (version, plan, sidecar)
    served = [newest[sm] for sm in sorted(newest)]
    tensors = {
        (
            _tensor(sidecar.input, (1, SIZE, SIZE)),
            _tensor(sidecar.output, (len(bundle.labels),)),
        )
        for _, _, sidecar in served
    }
    if len(tensors) > 1:
        raise UsageError(
            f"the {chosen} plans of {bundle.path} do not take the same input",
            fix="build them again from one graph: fer-edge build --target tensorrt",
        )
    input_, output = tensors.pop()
    releases = sorted({".".join(map(str, version)) for version, _, _ in served})
    notes.append(f"plans load only on the TensorRT that built them: {', '.join(releases)}")
    files = {f"model_sm{sm}.plan": newest[sm][1] for sm in sorted(newest)}
    name = f"{_model_name(bundle)}_tensorrt"
    batch = min(sidecar.batch["max"] for _, _, sidecar in served)
    sources = tuple(plan.path for _, plan, _ in served)
    return _Served(
        TritonModel(name, out / name, "tensorrt", chosen, batch, sources, tuple(notes)),
        platform="tensorrt_plan",
        input=input_,
        output=output,
        files=files,
        by_capability={
            f"{sm // 10}.{sm % 10}": file for sm, file in zip(sorted(newest), files, strict=True)
        },
    )


def _tensor(description: dict[str, Any], dims: Sequence[int]) -> _Tensor:
    dtype = str(description["dtype"])
    if dtype not in _TYPES:
        raise UsageError(f"Triton has no name for a tensor of {dtype}")
    return _Tensor(str(description["name"]), _TYPES[dtype], tuple(dims))


def _model_name(bundle: Bundle) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", bundle.manifest.name).strip("_.-") or "fer_edge"


def _write(served: _Served, bundle: Bundle, replace: bool) -> None:
    path = Path(served.model.folder).resolve()
    kind = "a model that this command wrote"
    with new_folder(path, lambda: refuse_taken(path, CONFIG, kind, replace=replace)) as folder:
        (folder / "1").mkdir()
        for name, artifact in served.files.items():
            copy = folder / "1" / name
            shutil.copyfile(bundle.file(artifact), copy)
            if sha256_file(copy) != artifact.sha256:
                raise IntegrityError(f"{bundle.file(artifact)} is not what the manifest says")
        (folder / LABELS).write_text("\n".join(bundle.labels) + "\n", encoding="utf-8")
        (folder / CONFIG).write_text(_config(served, bundle), encoding="utf-8")


def _config(served: _Served, bundle: Bundle) -> str:
    """Return the text form of inference.ModelConfig."""
    model = served.model
    lines = [
        f"# Written by fer-edge from the bundle {_quoted(bundle.manifest.name)},",
        f"# manifest {bundle.manifest.sha256}.",
        *(f"# {path}: {artifact.sha256}" for path, artifact in served.files.items()),
        *(["# The network was trained on synthetic faces."] if bundle.manifest.synthetic else []),
        f"name: {_quoted(model.name)}",
        f'backend: "{model.backend}"',
        f'platform: "{served.platform}"',
        f"max_batch_size: {model.max_batch}",
        *_tensor_lines("input", served.input),
        *_tensor_lines("output", served.output, label_filename=LABELS),
        f'default_model_filename: "{next(iter(served.files))}"',
    ]
    for capability, file in served.by_capability.items():
        lines.append(f'cc_model_filenames {{ key: "{capability}" value: "{file}" }}')
    if served.cpu:
        lines.append("instance_group [ { kind: KIND_CPU } ]")
    if model.max_batch > 1:
        lines.append(
            f"dynamic_batching {{ max_queue_delay_microseconds: {_QUEUE_DELAY_US} }}",
        )
    return "\n".join(lines) + "\n"


def _tensor_lines(field: str, tensor: _Tensor, label_filename: str = "") -> list[str]:
    dims = ", ".join(map(str, tensor.dims))
    return [
        f"{field} [",
        "  {",
        f"    name: {_quoted(tensor.name)}",
        f"    data_type: {tensor.type}",
        f"    dims: [ {dims} ]",
        *([f'    label_filename: "{label_filename}"'] if label_filename else []),
        "  }",
        "]",
    ]


def _quoted(text: str) -> str:
    """Return a string literal of protobuf's text format, plain ASCII on one line."""
    safe = "".join(
        char if " " <= char <= "~" and char not in '"\\' else _escape(char) for char in text
    )
    return f'"{safe}"'


def _escape(char: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogateescape"))
