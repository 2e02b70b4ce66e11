"""The devices that engines are built for: ``engines/targets/*.toml``, read and matched.

A target has the types of its graph and the needs of its plan (TensorRT release, compute
capability). So any machine can prepare the graph, and the device builds the plan.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from fer_edge.errors import RecipeError, UnavailableError, unknown
from fer_edge.files import read_toml
from fer_edge.paths import resource_dir
from fer_edge.records import Record, read_record
from fer_edge.trt.board import board_name
from fer_edge.trt.dla import Dla
from fer_edge.trt.gpu import Gpu, gpu_or_reason
from fer_edge.trt.library import FLAVOURS, import_tensorrt, tensorrt_version

__all__ = [
    "DLA_TARGET",
    "Limits",
    "TargetProfile",
    "default_target",
    "load_target",
    "local_target",
    "target_names",
]

_ALIASES = {"tensorrt-rtx": "rtx-pc"}
DLA_TARGET = "tensorrt-dla"
"""This machine's DLA; also the backend that runs its plans."""


class Limits(Record, frozen=True):
    """What a plan is built with: the largest batch, the builder's workspace and effort (0 to 5)."""

    max_batch: Annotated[int, Meta(ge=1)]
    workspace_mib: Annotated[int, Meta(ge=1)]
    level: Annotated[int, Meta(ge=0, le=5)]


class TargetProfile(Record, frozen=True, kw_only=True):
    """One device, or family of devices, that a TensorRT or TensorRT-RTX plan is built for."""

    name: str
    """The stem of its file."""
    summary: str
    """What the device is."""
    advice: str
    """Which precision to try, and why. ``fer-edge doctor`` shows both on the device."""
    package: Literal["tensorrt", "tensorrt-rtx"]
    """The library that builds and runs its plans."""
    tensorrt: str
    """The releases that serve it, ``>=10.3,<10.16`` or ``>=10.13,<11 or >=11.4.1,<12``."""
    sm: tuple[Annotated[int, Meta(ge=1)], ...]
    """Compute capabilities (87 is 8.7); empty for any that the library supports."""
    machine: str
    """``platform.machine()`` of the device."""
    board: str = ""
    """A part of the board's name, if only some boards have this release: ``AGX Orin``."""
    refuses_fp16_scales: bool = False
    """Whether some of its releases cannot build FP16 scales on its GPU (NVIDIA/TensorRT#4832). A
    bundle for it has graphs with an FP32 remainder, too."""
    precision: Literal["fp32", "fp16", "int8"]
    """The precision to try first."""
    build: Limits
    dla: Dla | None = None
    """For plans of the DLA instead of the GPU."""

    def __post_init__(self) -> None:
        _lowest(self.tensorrt)
        if self.dla is not None and (self.precision != "int8" or self.build.max_batch != 1):
            raise ValueError("a target of the DLA has the precision int8 and max_batch 1")

    @property
    def strongly_typed(self) -> bool:
        """Whether its builder takes every tensor's type from the graph (TensorRT 10 and later).

        If not (8.6), Q/DQ and scales are FP32, and for the rest the builder may choose FP16. Before
        TensorRT 11, a DLA takes no Q/DQ, so that its networks are not strongly typed either.
        """
        weak = 11 if self.dla else 10
        return self.package == "tensorrt-rtx" or _lowest(self.tensorrt) >= (weak,)

    @property
    def backend(self) -> str:
        """The backend that runs its plans: the package, or ``tensorrt-dla``."""
        return f"{self.package}-dla" if self.dla else self.package

    @property
    def placement(self) -> str:
        """The placement of the INT8 graph that its plans are built from, or judged by."""
        return "dla" if self.dla else "tensorrt"

    def serves(self, gpu: Gpu, board: str) -> bool:
        """Return whether it is for this GPU and board."""
        return (not self.sm or gpu.sm in self.sm) and self.board.lower() in board.lower()

    def accepts(self, version: str) -> bool:
        """Return whether a TensorRT release is in this target's range."""
        return _in_range(version, self.tensorrt)

    def why_not_here(self) -> str | None:
        """Return why this machine cannot build this target's plan, or None.

        TensorRT-RTX plans build without a GPU; TensorRT's only on the device itself, or one that
        has its machine type, TensorRT release and compute capability.
        """
        kind = FLAVOURS[self.package]
        here = platform.machine()
        if not kind.builds_without_gpu and here != self.machine:
            return f"{self.name} is {self.machine}, this machine is {here}"
        try:
            version = tensorrt_version(import_tensorrt(self.package))
        except UnavailableError as error:
            return str(error)
        if not self.accepts(version):
            return f"{self.name} needs {kind.title} {self.tensorrt}, this machine has {version}"
        if kind.builds_without_gpu:
            return None
        gpu, reason = gpu_or_reason()
        if gpu is None:
            return reason
        if self.sm and gpu.sm not in self.sm:
            wanted = " or ".join(f"sm_{sm}" for sm in self.sm)
            return f"{self.name} is {wanted}, this GPU ({gpu.name}) is sm_{gpu.sm}"
        board = board_name(gpu)
        if not self.serves(gpu, board):
            return f"{self.name} is {self.board}, this board is {board}"
        return None

    def build_command(self, bundle: str = "BUNDLE", precision: str | None = None) -> str:
        """Return the command that builds the plan on the device."""
        return (
            f"fer-edge build {bundle} --precision {precision or self.precision} "
            f"--target {self.name}"
        )


def target_names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def load_target(name: str) -> TargetProfile:
    """Read a profile by its name; ``tensorrt`` is this machine's own, ``tensorrt-rtx`` an RTX PC.

    ``tensorrt-dla`` is this machine's DLA. :class:`UsageError` suggests the nearest name.
    """
    if name in {"tensorrt", DLA_TARGET}:
        return local_target(dla=name == DLA_TARGET)
    path = _folder() / f"{_ALIASES.get(name, name)}.toml"
    if not path.is_file():
        raise unknown("target", name, [*target_names(), *_ALIASES, "tensorrt", DLA_TARGET])
    return _read(path)


def local_target(*, dla: bool = False) -> TargetProfile:
    """Return the profile of this machine, or that of its DLA.

    :class:`UnavailableError` if there is no TensorRT or GPU here, or no profile fits them.
    """
    version = tensorrt_version(import_tensorrt("tensorrt"))
    gpu, reason = gpu_or_reason()
    if gpu is None:
        raise UnavailableError(
            f"TensorRT {version} is installed, but {reason}",
            fix="build for a named device (--target orin-jp62) and finish there, "
            "or choose --target onnxruntime",
        )
    board = board_name(gpu)
    profiles = [load_target(name) for name in target_names()]
    fitting = [
        profile
        for profile in profiles
        if profile.package == "tensorrt"
        and (profile.dla is not None) is dla
        and profile.machine == platform.machine()
        and profile.accepts(version)
        and profile.serves(gpu, board)
    ]
    if not fitting and dla:
        raise UnavailableError(
            f"no target of a DLA fits TensorRT {version} on {board}, sm_{gpu.sm} "
            f"({platform.machine()}): Orin NX and AGX Orin have a DLA, with TensorRT 10.3 to 10.7, "
            "and AGX Orin with 11.4.1 and later",
            fix="build for the GPU: --target tensorrt",
        )
    if not fitting:
        raise UnavailableError(
            f"no target profile fits TensorRT {version} on {board}, sm_{gpu.sm} "
            f"({platform.machine()})",
            fix="add one to engines/targets/ (see engines/README.md)",
        )
    # A profile that names the board or the compute capability is more specific than others.
    return min(fitting, key=lambda profile: (not profile.board, not profile.sm, profile.name))


def default_target() -> tuple[str, str]:
    """Return ``(target, why)`` for ``fer-edge build`` without ``--target``."""
    try:
        profile = local_target()
    except UnavailableError as error:
        return "onnxruntime", f"no TensorRT here: {error}"
    return "tensorrt", f"this is {profile.name} ({profile.summary}). {profile.advice}"


def _folder() -> Path:
    return resource_dir("engines") / "targets"


def _read(path: Path) -> TargetProfile:
    content = {**read_toml(path, RecipeError), "name": path.stem}
    return read_record(TargetProfile, content, f"the target profile {path}", RecipeError)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _ranges(wanted: str) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Return the alternatives, each a list of clauses that have to be true together."""
    ranges = []
    for text in wanted.split(" or "):
        found = re.findall(r"(>=|<)\s*([\d.]+)", text)
        if not found or ",".join(f"{op}{v}" for op, v in found) != text.replace(" ", ""):
            raise ValueError(f"{wanted!r} is not a version range such as '>=10.3,<10.16'")
        ranges.append([(op, _numbers(v)) for op, v in found])
    return ranges


def _lowest(wanted: str) -> tuple[int, ...]:
    return min(
        max((v for op, v in clauses if op == ">="), default=(0,)) for clauses in _ranges(wanted)
    )


def _in_range(version: str, wanted: str) -> bool:
    have = _numbers(version)
    return any(
        all(have >= v if op == ">=" else have < v for op, v in clauses)
        for clauses in _ranges(wanted)
    )
