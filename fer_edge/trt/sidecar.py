"""The JSON beside a plan: its library, GPU and ONNX file. It is read before the plan is loaded.

The plan file itself has no header, so that trtexec and C++ can load it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fer_edge.errors import EngineMismatchError, IntegrityError
from fer_edge.files import read_json, sha256_bytes, write_json
from fer_edge.records import check_schema, read_record
from fer_edge.trt.board import Device
from fer_edge.trt.library import FLAVOURS, same_release

__all__ = ["SCHEMA", "PlanSidecar", "layers_path", "plan_name", "sidecar_path"]

SCHEMA = 1
"""The schema of the JSON beside a plan."""


@dataclass(frozen=True)
class PlanSidecar:
    """Facts about one plan. ``sm`` is None for TensorRT-RTX, whose plans serve several GPUs."""

    package: str
    """``tensorrt`` or ``tensorrt-rtx``."""
    tensorrt: str
    """The full version of the library that built it."""
    sm: int | None
    gpu: str
    target: str
    precision: str
    parent_sha256: str
    """The digest of the ONNX file that it was built from."""
    sha256: str
    size: int
    batch: dict[str, int]
    """``min``, ``opt``, ``max`` of the optimisation profile."""
    input: dict[str, Any]
    output: dict[str, Any]
    build_seconds: float
    created: str
    flags: list[str] = field(default_factory=list)
    builder_level: int = 3
    workspace_mib: int = 0
    strongly_typed: bool = True
    timing_cache: str = ""
    layers: int = 0
    driver: str = ""
    fer_edge: str = ""
    warnings: list[str] = field(default_factory=list)
    board: str = ""
    """The board, or the GPU where there is none; this and the next two are unknown in old files."""
    multiprocessors: int = 0
    memory_mib: int = 0
    memory: str = ""
    """``copied`` or ``mapped``: what was faster when it was built; "" if that was not measured."""
    variant: str = ""
    """Which of a bundle's graphs of this precision it was built from."""
    dla_core: int | None = None
    """The DLA core that it was built for; it runs on each. None: a plan of the GPU."""
    dla_share: float | None = None
    """The part of the multiply-accumulates that run on the DLA."""
    dla_layers: list[str] = field(default_factory=list)
    gpu_layers: dict[str, str] = field(default_factory=dict)
    """Of a DLA's plan: the layers that run on the GPU nevertheless, each with the reason."""
    schema: int = SCHEMA

    @property
    def device(self) -> Device:
        """The device that it was built on."""
        return Device(self.board, self.multiprocessors, self.memory_mib)

    @property
    def backend(self) -> str:
        """The backend that runs it: the package, or ``tensorrt-dla``."""
        return self.package if self.dla_core is None else f"{self.package}-dla"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return asdict(self)

    def write(self, plan: Path) -> Path:
        """Write it beside ``plan`` and return its path."""
        path = sidecar_path(plan)
        write_json(path, self.to_dict())
        return path

    @classmethod
    def read(cls, plan: Path) -> PlanSidecar:
        """Read the JSON beside ``plan``. Raises :class:`IntegrityError` if missing or invalid."""
        path = sidecar_path(plan)
        fix = _build_command(plan, "", "tensorrt")
        if not path.is_file():
            raise IntegrityError(
                f"{plan} cannot be loaded without {path.name}, which is missing", fix=fix
            )
        content = read_json(path)
        check_schema(content, SCHEMA, str(path))
        return read_record(cls, content, str(path), fix=fix)

    def check_bytes(self, plan: Path, content: bytes) -> None:
        """Raise :class:`IntegrityError` unless ``content`` is the plan that this describes."""
        if sha256_bytes(content) != self.sha256:
            raise IntegrityError(
                f"{plan} is not the file that {sidecar_path(plan).name} describes",
                fix=self.build_command(plan),
            )

    def mismatch(self, package: str, tensorrt: str, sm: int | None) -> str | None:
        """Return why library and GPU here cannot load it, or None. ``sm`` is None without a GPU.

        TensorRT's plans load on one release (see :func:`same_release`) and one compute capability;
        TensorRT-RTX's on one release.
        """
        titles = {name: flavour.title for name, flavour in FLAVOURS.items()}
        same = (
            self.package == package
            and same_release(self.tensorrt, tensorrt)
            and (self.sm is None or sm is None or self.sm == sm)
        )
        if same:
            return None
        built = f" for sm_{self.sm}" if self.sm is not None else ""
        here = f" on sm_{sm}" if sm is not None else ""
        return (
            f"built with {titles.get(self.package, self.package)} {self.tensorrt}"
            f"{built}, this is {titles.get(package, package)} {tensorrt}{here}"
        )

    def check_here(self, plan: Path, package: str, tensorrt: str, sm: int | None) -> None:
        """Raise :class:`EngineMismatchError` (exit code 5) if :meth:`mismatch` returns a reason."""
        reason = self.mismatch(package, tensorrt, sm)
        if reason is not None:
            raise EngineMismatchError(f"{plan} was {reason}", fix=self.build_command(plan, package))

    def build_command(self, plan: Path, package: str | None = None) -> str:
        """Return the command that builds this precision for this machine."""
        target = package or self.package
        target += "" if self.dla_core is None else "-dla"
        return _build_command(plan, f" --precision {self.precision}", target)


def plan_name(sidecar: PlanSidecar) -> str:
    """Return a plan's name in a bundle: ``engines/sm87-orin-nano-8sm-7gib-trt10.3.0.30-int8.plan``.

    It has all that decides whether and how well the plan runs, so that a plan for another board or
    release does not replace it.
    """
    parts = ["rtx"] if sidecar.package == "tensorrt-rtx" else [f"sm{sidecar.sm}"]
    if sidecar.package != "tensorrt-rtx" and sidecar.device.slug:
        parts.append(sidecar.device.slug)
    if sidecar.dla_core is not None:
        parts.append("dla")
    kind = "-".join(filter(None, (sidecar.precision, sidecar.variant)))
    return f"engines/{'-'.join(parts)}-trt{sidecar.tensorrt}-{kind}.plan"


def sidecar_path(plan: Path) -> Path:
    """Return the path of the JSON beside a plan."""
    return plan.with_name(plan.name.removesuffix(".plan") + ".json")


def layers_path(plan: Path) -> Path:
    """Return the path of the file with a plan's layers, written by the engine inspector."""
    return plan.with_name(plan.name.removesuffix(".plan") + ".layers.json")


def _build_command(plan: Path, precision: str, target: str) -> str:
    # bundle/engines/x.plan: the bundle has the graph to build another plan from.
    bundle = plan.parent.parent
    source = f" {bundle}" if (bundle / "manifest.json").is_file() else ""
    return f"fer-edge build{source}{precision} --target {target}"
