"""Where the time of an engine goes: the share of each layer, from the runtime's own profile.

A profile slows the engine down, and layers that the runtime has fused are one row: the shares are
right, the times are not those of a run without it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.openvino import OpenVINOBackend
from fer_edge.errors import UsageError
from fer_edge.measure.latency import preload

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend

__all__ = ["PROFILED", "LayerTime", "layer_times"]

_QUERIES = 200


@dataclass(frozen=True)
class LayerTime:
    """One layer, or several that the runtime fused: its kind, mean time and share of the sum."""

    layer: str
    kind: str
    microseconds: float
    share: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready row."""
        return asdict(self)


def layer_times(
    backend: Backend, images: np.ndarray, *, queries: int = _QUERIES
) -> list[LayerTime]:
    """Return the layers of ``backend``'s engine, slowest first; one image of ``images`` a query.

    The engine is loaded a second time, with the profile on. :class:`UsageError` for a backend
    without one.
    """
    profile = PROFILED.get(backend.name)
    if profile is None:
        raise UsageError(
            f"{backend.name} has no profile of its layers here",
            fix=f"choose from: {', '.join(PROFILED)} (TensorRT's layers are in the file "
            ".layers.json beside the plan)",
        )
    sent = preload(images, 0)
    times = profile(backend, [sent[i % len(sent)] for i in range(queries)])
    total = sum(nanoseconds for _, nanoseconds in times.values()) or 1
    rows = [
        LayerTime(name, kind, nanoseconds / queries / 1000, nanoseconds / total)
        for name, (kind, nanoseconds) in times.items()
    ]
    return sorted(rows, key=lambda row: -row.share)


_Times = dict[str, tuple[str, float]]
"""Layer -> (kind, nanoseconds of all queries)."""


def _options_of(backend: Backend) -> dict[str, Any]:
    return {
        "precision": backend.precision,
        "threads": backend.threads,
        "preprocessing": backend.preprocessing,
    }


def _onnxruntime(backend: Backend, queries: list[np.ndarray]) -> _Times:
    with tempfile.TemporaryDirectory(prefix="fer-edge-profile-") as folder:

        class Profiled(OnnxRuntimeBackend):
            """The same session, with the profile on."""

            def _open(self, ort: Any, graph: Path | bytes, *, exact: bool) -> Any:
                def options() -> Any:
                    made = ort.SessionOptions()
                    made.enable_profiling = True
                    made.profile_file_prefix = str(Path(folder) / "profile")
                    return made

                same = SimpleNamespace(
                    SessionOptions=options,
                    ExecutionMode=ort.ExecutionMode,
                    InferenceSession=ort.InferenceSession,
                )
                return super()._open(same, graph, exact=exact)  # type: ignore[arg-type]

            def end(self) -> Path:
                return Path(self._session.end_profiling())

        with Profiled(backend.path, **_options_of(backend)) as profiled:
            for image in queries:
                profiled.infer(image)
            events = json.loads(profiled.end().read_text(encoding="utf-8"))
    times: _Times = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            layer = name.removesuffix("_kernel_time")
            kind = str(event["args"].get("op_name", ""))
            times[layer] = (kind, times.get(layer, ("", 0.0))[1] + 1000.0 * event["dur"])
    return times


def _openvino(backend: Backend, queries: list[np.ndarray]) -> _Times:
    class Profiled(OpenVINOBackend):
        """The same network, with OpenVINO's counters on."""

        def _compile(self, model: Any) -> Any:
            self._core.set_property("CPU", {"PERF_COUNT": True})
            return super()._compile(model)

        def counters(self) -> Any:
            return self._one.get_profiling_info()

    times: _Times = {}
    with Profiled(backend.path, **_options_of(backend)) as profiled:
        for image in queries:
            profiled.infer(image)
            for layer in profiled.counters():
                nanoseconds = layer.real_time.total_seconds() * 1e9
                if nanoseconds:
                    before = times.get(layer.node_name, ("", 0.0))[1]
                    times[layer.node_name] = (layer.exec_type, before + nanoseconds)
    return times


PROFILED: dict[str, Callable[[Backend, list[np.ndarray]], _Times]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}
"""Backends whose runtime tells the time of its layers."""
