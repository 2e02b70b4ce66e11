"""Run our builder and runtime code against one release's real API, without its libraries.

``python contract_child.py LIBRARY_DIR MODULE`` imports the bindings, puts fakes behind them that
obey the real classes (an attribute that the class lacks, a property that cannot be set, or a call
that no documented signature takes raises), builds and runs plans, and prints JSON. One process per
release: two releases of these bindings cannot be imported into one.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from fake_cuda import FakeCudart
from fake_tensorrt import (
    FakeBuilder,
    FakeDla,
    FakeParser,
    FakeRuntime,
    fake_tensorrt,
    logits_of,
)
from load_bindings import load_bindings
from msgspec import structs

from fer_edge.backends.tensorrt import (
    TensorRTBackend,
    TensorRTDLABackend,
    TensorRTRTXBackend,
)
from fer_edge.errors import FerEdgeError
from fer_edge.files import sha256_bytes
from fer_edge.progress import Reporter
from fer_edge.trt.builder import plan_from_onnx
from fer_edge.trt.cuda_bindings import CudaBindings
from fer_edge.trt.dla import DlaFacts
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.lane import LaneOptions
from fer_edge.trt.targets import TargetProfile, load_target


class Counts(Reporter):
    def __init__(self) -> None:
        self.done: list[int] = []

    def progress(self, stage: str, done: int, total: int) -> None:
        self.done.append(done)


GPU = Gpu("Fake Orin", 87, "12.6", 8 << 30, True, True, 8, 918)
RELEASES = {
    "8.6": "x86-dgpu-trt8",
    "10.3": "orin-jp62",
    "10.7": "orin-jp62",
    "10.1": "thor-jp7",
    "11.": "x86-dgpu",
}
DLA = {"10.3": "orin-jp62-dla", "10.7": "orin-jp62-dla", "11.": "agx-orin-jp722-dla"}


def split_top(text: str) -> list[str]:
    """Split at commas that are inside no bracket."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "([{<") - (char in ")]}>")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [part.strip() for part in [*parts, current] if part.strip()]


class Signature:
    """One overload of a pybind11 function, from its docstring."""

    def __init__(self, parameters: str, result: str) -> None:
        self.result = result.strip()
        self.names: list[str] = []
        self.types: list[str] = []
        self.required = 0
        for part in split_top(parameters):
            name, _, rest = part.partition(":")
            annotation, _, default = rest.partition("=")
            if name.strip() == "self":
                continue
            self.names.append(name.strip())
            self.types.append(annotation.strip())
            self.required += not default

    def takes(self, trt: Any, args: tuple[Any, ...]) -> bool:
        return self.required <= len(args) <= len(self.names) and all(
            fits(trt, value, annotation) for value, annotation in zip(args, self.types)
        )


def signatures(function: Any, name: str) -> list[Signature]:
    text = function.__doc__ or ""
    found = re.findall(rf"^(?:\d+\. )?{name}\((.*)\) -> (.+)$", text, re.MULTILINE)
    return [Signature(*match) for match in found]


def fits(trt: Any, value: Any, annotation: str) -> bool:
    """Return whether pybind11 would accept a value as the annotation in a docstring."""
    last = annotation.rpartition(".")[2].rpartition("::")[2]
    if last in {"int", "SupportsInt"}:
        return isinstance(value, int) and not isinstance(value, bool)
    if last in {"float", "SupportsFloat"}:
        return isinstance(value, int | float)
    if last in {"bool", "str", "tuple", "list"}:
        return type(value).__name__ == last
    if last in {"buffer", "Buffer"}:
        return isinstance(value, bytes | bytearray | memoryview)
    kind = getattr(trt, last, None)
    if isinstance(kind, type):
        if isinstance(value, Checked):
            return issubclass(value._kind, kind)
        if last.startswith("Dims"):
            return isinstance(value, tuple | list)
        return isinstance(value, kind)
    raise AssertionError(f"annotation {annotation!r} is not understood")


class Checked:
    """A fake behind a real class: what the class lacks does not exist."""

    def __init__(self, trt: Any, kind: type, inside: Any, used: set[str]) -> None:
        self.__dict__.update(_trt=trt, _kind=kind, _inside=inside, _used=used)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(self._kind, name):
            raise AttributeError(f"{self._kind.__name__} of {self._trt.__version__} has no {name}")
        self._used.add(f"{self._kind.__name__}.{name}")
        value = getattr(self._inside, name)
        if isinstance(getattr(self._kind, name), property):
            return self._trt.Dims(value) if name == "shape" else value
        return checked_call(self._trt, getattr(self._kind, name), name, value, self._used)

    def __setattr__(self, name: str, value: Any) -> None:
        where = getattr(self._kind, name, None)
        assert isinstance(where, property), f"{self._kind.__name__} has no property {name}"
        assert where.fset is not None, f"{self._kind.__name__}.{name} cannot be set"
        self._used.add(f"{self._kind.__name__}.{name}")
        setattr(self._inside, name, value)


def checked_call(trt: Any, function: Any, name: str, inside: Any, used: set[str]) -> Any:
    known = signatures(function, name)
    assert known, f"{name} documents no signature"

    def call(*args: Any) -> Any:
        fitting = [one for one in known if one.takes(trt, args)]
        assert fitting, f"{trt.__version__}: {name}{args!r} fits none of {function.__doc__}"
        result = inside(*args)
        if "Dims" in fitting[0].result:
            return (
                [trt.Dims(one) for one in result]
                if "ist[" in fitting[0].result
                else trt.Dims(result)
            )
        kind = class_named(trt, re.split(r"[.:]+", fitting[0].result)[-1])
        # IHostMemory is a buffer: bytes stand for it.
        plain = result is None or isinstance(result, bytes) or not isinstance(kind, type)
        if plain or isinstance(result, kind):  # the latter for enums: they are the real ones
            return result
        return Checked(trt, kind, result, used)

    return call


def class_named(trt: Any, name: str) -> Any:
    """The class of a docstring's result; some name the C++ class (IParserError for ParserError)."""
    return getattr(trt, name, None) or getattr(trt, name.removeprefix("I"), None)


class CheckedModule:
    """The real module, with fakes made by its three constructors."""

    def __init__(self, trt: Any, name: str, streams: Any) -> None:
        self._real = trt
        self.__name__ = name
        self.__version__ = trt.__version__
        self.seen: dict[str, Any] = {}
        self.streams = streams
        self.dla = FakeDla()
        self.used: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name)
        self.used.add(name)
        fakes = {"Builder": FakeBuilder, "OnnxParser": FakeParser, "Runtime": FakeRuntime}
        if name not in fakes:
            return value
        known = signatures(value.__init__, "__init__")

        def construct(*args: Any) -> Any:
            assert any(one.takes(self._real, args) for one in known), f"{name}{args!r}"
            return Checked(self._real, value, fakes[name](self, *args), self.used)

        return construct


def attempt(action: Any) -> dict[str, Any]:
    try:
        return {"ok": action()}
    except FerEdgeError as error:
        return {"error": str(error), "fix": error.fix, "exit": error.exit_code}


def dla_target(version: str) -> TargetProfile | None:
    name = next((name for prefix, name in DLA.items() if version.startswith(prefix)), None)
    if name is None:
        return None
    if not version.startswith("11."):
        return load_target(name)
    # The package index has no bindings of 11.4.1, in which the DLA came back; 11.4.0 has its API.
    return structs.replace(load_target(name), tensorrt=">=11.4,<12")


def build_and_run_on_a_dla(
    real: Any, name: str, target: TargetProfile, folder: Path, used: set[str]
) -> dict[str, Any]:
    word = "dla-int8" if target.strongly_typed else "dla"
    onnx, plan = folder / "dla.onnx", folder / "dla.plan"
    onnx.write_text(word)
    facts = DlaFacts(
        schema=1,
        graph_sha256=sha256_bytes(word.encode()),
        calibration_sha256="",
        method="minmax",
        ranges={"normal": 2.0, "stem": 3.0, "stem_relu": 3.0, "main": 3.0, "last": 4.0},
        macs={"/stem/Conv": 100, "/block/Conv": 900, "/fc/Gemm": 10},
    )
    trt = CheckedModule(real, name, FakeCudart())
    built = plan_from_onnx(onnx, plan, target=target, trt=trt, gpu=GPU, facts=facts)
    with TensorRTDLABackend(
        plan,
        trt=trt,
        cuda=CudaBindings(trt.streams),
        gpu=GPU,
        options=LaneOptions(dla_core=1),
    ) as backend:
        image = np.zeros((1, 1, 48, 48), np.uint8)
        exact = np.array_equal(backend.infer(image), logits_of(image))
        provider = backend.provider
    used |= trt.used
    core = trt.dla.core_of_runtime
    side = built.sidecar.to_dict()
    return {"built": side, "seen": trt.seen, "exact": exact, "provider": provider, "core": core}


def main(folder: str, module: str) -> None:
    real = load_bindings(folder, module) if module != "fake" else fake_tensorrt(folder)
    rtx = "rtx" in module
    name = "tensorrt_rtx" if rtx else "tensorrt"
    target_name = (
        "rtx-pc"
        if rtx
        else next(
            target for prefix, target in RELEASES.items() if real.__version__.startswith(prefix)
        )
    )
    target = load_target(target_name)
    report: dict[str, Any] = {"version": real.__version__, "target": target_name, "builds": {}}
    backend_class = TensorRTRTXBackend if rtx else TensorRTBackend
    used: set[str] = set()
    with tempfile.TemporaryDirectory() as scratch:
        for word in ("fp32", "fp16", "int8", "refused", "uint8", "unbuildable"):
            trt = CheckedModule(real, name, None)
            onnx, plan = Path(scratch, f"{word}.onnx"), Path(scratch, f"{word}.plan")
            onnx.write_bytes(word.encode())
            counts = Counts()
            gpu = GPU if not rtx else Gpu("Fake RTX", 89, "13.0", 8 << 30, False, True, 128, 2500)

            def build(
                trt: Any = trt,
                onnx: Path = onnx,
                plan: Path = plan,
                gpu: Gpu = gpu,
                counts: Counts = counts,
            ) -> Any:
                done = plan_from_onnx(
                    onnx,
                    plan,
                    target=target,
                    trt=trt,
                    gpu=gpu,
                    reporter=counts,
                )
                return {**done.sidecar.to_dict(), "layers file": done.layers is not None}

            report["builds"][word] = {**attempt(build), "seen": trt.seen, "progress": counts.done}
            used |= trt.used
        dla = None if rtx else dla_target(real.__version__)
        if dla is not None:
            report["dla"] = build_and_run_on_a_dla(real, name, dla, Path(scratch), used)
        cudart = FakeCudart()
        trt = CheckedModule(real, name, cudart)
        with backend_class(
            Path(scratch, "int8.plan"),
            trt=trt,
            cuda=CudaBindings(cudart),
            gpu=gpu,
            options=LaneOptions(timed=True),
        ) as backend:
            images = np.random.default_rng(0).integers(0, 256, (11, 1, 48, 48), np.uint8)
            exact = [
                np.array_equal(backend.infer(images[:n]), logits_of(images[:n]))
                for n in (1, 3, 11, 1)
            ]
            report["run"] = {"exact": exact, "provider": backend.provider}
        report["alive"] = cudart.alive()
        used |= trt.used
    report["used"] = sorted(used)
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
