"""Which engine of a bundle a backend uses: one rule for all commands and the C++ runner.

An engine is a file that a backend runs: a graph (ONNX Runtime, OpenVINO, LiteRT), a plan (TensorRT)
or the checkpoint (PyTorch). Without a precision, the rule takes the first of INT8, FP16, FP32 whose
gate has not failed and that this machine can load. Of INT8 graphs with several kinds of weights, it
takes the kind that fits this CPU (:func:`fer_edge.cpu.fitting_weights`).
``engines/cpp/src/usable.cpp`` follows the same rule; ``tests/engines/test_cpp_usable.py`` compares
the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from fer_edge.bundle.bundle import Artifact, Bundle
from fer_edge.cpu import fitting_weights
from fer_edge.errors import EngineMismatchError, FerEdgeError, UnavailableError, UsageError

__all__ = [
    "BEST_FIRST",
    "BackendKind",
    "UsableEngine",
    "WhyNot",
    "engines_of",
    "require_engine",
    "usable_engine",
]

BEST_FIRST = ("int8", "fp16", "fp32")
"""The order in which precisions are tried."""


class BackendKind(Protocol):
    """The attributes of a backend's class that the rule reads."""

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    placement: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]

    @classmethod
    def misfit(cls, engine: Path) -> str | None:
        """Return why this machine cannot load a file that the backend can run, or None.

        :class:`UnavailableError` if this machine cannot tell: it has no library or no device.
        """

    @classmethod
    def differs(cls, engine: Path) -> str:
        """Return how the machine that a file was tuned for differs from this one, or ""."""


@dataclass(frozen=True)
class UsableEngine:
    """The file that a backend runs.

    ``placement`` is the placement of the INT8 graph that the backend takes. ``artifact`` and
    ``path`` are None for the null backend, which reads no file. ``why`` says why this one was taken
    where the bundle has INT8 graphs with several kinds of weights; "" elsewhere.
    """

    backend: str
    precision: str
    placement: str
    artifact: Artifact | None = None
    path: Path | None = None
    why: str = ""


@dataclass(frozen=True)
class WhyNot:
    """Why there is no usable engine: an error with its fix, for the caller to raise."""

    error: FerEdgeError

    @property
    def message(self) -> str:
        """The reason in one line."""
        return str(self.error)

    @property
    def fix(self) -> str | None:
        """What the user can do."""
        return self.error.fix


def usable_engine(
    bundle: Bundle,
    backend: type[BackendKind],
    precision: str | None = None,
    *,
    here: bool = True,
) -> UsableEngine | WhyNot:
    """Return the engine of ``bundle`` that ``backend`` uses, or why there is none.

    If ``precision`` is given, it is used even if its gate failed. ``here=False`` reads the manifest
    alone, for engines that will run on another machine; the graph is then one that fits every CPU.
    No engine is loaded. The JSON file beside a plan is read;
    :class:`~fer_edge.errors.IntegrityError` if it is damaged.
    """
    if not backend.formats:
        return UsableEngine(backend.name, precision or "fp32", backend.placement)
    engines, candidates, failed = _candidates(bundle, backend, precision, here)
    if failed and not candidates:
        return WhyNot(
            UsageError(
                f"every engine of {bundle.path} for {backend.name} failed its gate: "
                f"{', '.join(failed)}",
                fix=f"to use one anyway, name its precision: --precision {failed[-1]}",
            )
        )
    misfits: WhyNot | None = None
    for candidate in candidates:
        reasons, fitting = [], []
        for artifact in engines[candidate]:
            path = bundle.file(artifact)
            try:
                reason = backend.misfit(path) if here else None
            except UnavailableError as error:
                return WhyNot(error)
            if reason is None:
                why = _why(engines[candidate], artifact, here=here)
                fitting.append(
                    UsableEngine(backend.name, candidate, backend.placement, artifact, path, why)
                )
            else:
                reasons.append(f"{artifact.path} was {reason}")
        if fitting:
            return _tuned_for_here(fitting, backend) if here else fitting[0]
        if reasons and misfits is None:
            fix = bundle.build_command(candidate, backend.name)
            misfits = WhyNot(EngineMismatchError("; ".join(reasons), fix=fix))
    if misfits is not None:
        return misfits
    return WhyNot(_missing(bundle, backend, candidates[0] if candidates else precision, failed))


def _candidates(
    bundle: Bundle, backend: type[BackendKind], precision: str | None, here: bool
) -> tuple[dict[str, Sequence[Artifact]], list[str], list[str]]:
    """Return the engines by precision, the precisions to try, and those whose gates failed."""
    wanted = backend.precisions if precision is None else (precision,)
    engines = {name: engines_of(bundle, backend, name, here=here) for name in wanted}
    # A graph without its plan counts: the error then names the missing plan.
    present = [name for name in wanted if engines[name] or _sources(bundle, backend, name)]
    if precision is not None:
        return engines, present, []
    engines |= {name: _not_failed(bundle, backend, engines[name]) for name in present}
    failed = [
        name
        for name in present
        if not (engines[name] or _not_failed(bundle, backend, _sources(bundle, backend, name)))
    ]
    return engines, [name for name in present if name not in failed], failed


def require_engine(
    bundle: Bundle,
    backend: type[BackendKind],
    precision: str | None = None,
    *,
    here: bool = True,
) -> UsableEngine:
    """Return the engine of :func:`usable_engine`, or raise its error."""
    engine = usable_engine(bundle, backend, precision, here=here)
    if isinstance(engine, WhyNot):
        raise engine.error
    return engine


def engines_of(
    bundle: Bundle, backend: type[BackendKind], precision: str, *, here: bool = True
) -> Sequence[Artifact]:
    """Return the bundle's files of one precision that ``backend`` runs, on any machine.

    An INT8 graph has the placement of one backend; other backends never take it. Of several graphs,
    the one that fits this CPU comes first; with ``here=False`` the one that fits every CPU.
    """
    if "plan" in backend.formats:
        return [
            artifact
            for artifact in bundle.manifest.artifacts
            if (artifact.format, artifact.precision, artifact.target)
            == ("plan", precision, backend.name)
        ]
    if "safetensors" in backend.formats:
        engine = bundle.find(format="safetensors") if precision == "fp32" else None
        return [] if engine is None else [engine]
    if "tflite" in backend.formats:
        return [
            artifact
            for artifact in bundle.manifest.artifacts
            if (artifact.format, artifact.precision) == ("tflite", precision)
        ]
    wanted = _wanted_weights(here)[0]
    graphs = bundle.graphs(precision, backend.placement)
    return sorted(graphs, key=lambda graph: graph.weights != wanted)


def _wanted_weights(here: bool) -> tuple[str, str]:
    return fitting_weights() if here else fitting_weights(frozenset())


def _tuned_for_here(engines: Sequence[UsableEngine], backend: type[BackendKind]) -> UsableEngine:
    """Return the first engine that was tuned for this machine, else the first."""
    if len(engines) > 1:
        for engine in engines:
            if engine.path is not None and not backend.differs(engine.path):
                return engine
    return engines[0]


def _why(graphs: Sequence[Artifact], taken: Artifact, *, here: bool) -> str:
    """Return why this one of several INT8 graphs for CPUs was taken; "" if there is no choice."""
    kinds = {graph.weights for graph in graphs if graph.format == "onnx"} - {""}
    if len(kinds) < 2:
        return ""
    return f"{taken.path} with {taken.weights} weights: {_wanted_weights(here)[1]}"


def _sources(bundle: Bundle, backend: type[BackendKind], precision: str) -> Sequence[Artifact]:
    """Return the graphs in the bundle that a plan is built from."""
    return bundle.graphs(precision, backend.placement) if "plan" in backend.formats else ()


def _not_failed(
    bundle: Bundle, backend: type[BackendKind], engines: Sequence[Artifact]
) -> Sequence[Artifact]:
    """Return the engines whose gate, that of a plan's graph for a plan, has not failed."""
    # The checkpoint is the reference: gates judge only the engines made from it.
    if "safetensors" in backend.formats:
        return engines
    failed = {
        (gate.precision, gate.variant)
        for gate in bundle.manifest.gates
        if gate.target in {"", backend.placement} and gate.passed is False
    }
    return [each for each in engines if (each.precision, each.variant) not in failed]


def _missing(
    bundle: Bundle, backend: type[BackendKind], precision: str | None, failed: Sequence[str]
) -> UsageError:
    if "safetensors" in backend.formats:
        if precision not in {None, "fp32"}:
            return UsageError(
                f"the {backend.name} backend runs the FP32 reference, not {precision}",
                fix="--precision fp32, or --backend onnxruntime",
            )
        return UsageError(
            f"the bundle {bundle.path} has no PyTorch checkpoint",
            fix="use its FP32 graph, the same network: --backend onnxruntime --precision fp32",
        )
    if "tflite" in backend.formats and precision == "fp16":
        return UsageError(
            f"engines for {backend.name} are fp32 or int8",
            fix="--precision int8, or --precision fp32",
        )
    kind = "plan" if "plan" in backend.formats else "graph"
    wanted = precision if precision in backend.precisions else "int8"
    fix = bundle.build_command(wanted, backend.name)
    message = f"{bundle.path} has no {f'{precision} ' if precision else ''}{kind}"
    message += f" for {backend.name}"
    if failed:
        message += f" ({', '.join(failed)} failed the gate)"
    if kind == "plan" and precision == "int8" and _chose_another(bundle, backend):
        message += ": its FP16 plan was chosen instead"
        fix += " --no-speed" if fix.startswith("fer-edge ") else ""
    if kind == "graph":
        files = ", ".join(artifact.path for artifact in bundle.manifest.artifacts) or "nothing"
        message += f"; it has: {files}"
    return UsageError(message, fix=fix)


def _chose_another(bundle: Bundle, backend: type[BackendKind]) -> bool:
    """Return whether a device kept the FP16 plan, since INT8 is not faster there."""
    plans = engines_of(bundle, backend, "fp16")
    return any("choice" in plan.meta for plan in plans)
