"""Check what can run on this machine, and why not. A broken package cannot stop the report.

Each package is imported in a separate process, where it may raise, hang or crash (TensorRT 8.6
crashes without a driver). Its row then contains the error.
"""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fer_edge.cpu import cpu_features, fitting_weights, int8_dot_saturates
from fer_edge.errors import of_signal_handler
from fer_edge.trt.gpu import Gpu, gpu_or_reason
from fer_edge.trt.jetson import Jetson, find_jetson, power_mode
from fer_edge.trt.library import FLAVOURS, is_installed
from fer_edge.version import __version__

__all__ = ["Check", "Probe", "check_machine", "probe"]

Status = Literal["ok", "missing", "problem", "info"]
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Check:
    """One row of the report. ``missing``: not installed; ``problem``: installed but broken."""

    name: str
    status: Status
    found: str
    fix: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return a JSON-ready row."""
        return asdict(self)


@dataclass(frozen=True)
class Probe:
    """The result of a process that checked a package; ``error`` is "" if it succeeded."""

    values: Mapping[str, Any]
    error: str


def probe(code: str, *, timeout: float = TIMEOUT_S) -> Probe:
    """Run Python ``code`` that prints JSON objects, one per line, and collect them into one."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe({}, f"no answer within {timeout:g} s")
    values: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            try:
                values.update(json.loads(line))
            except ValueError:
                continue
    if done.returncode == 0:
        return Probe(values, "")
    if done.returncode < 0:
        return Probe(values, f"it crashes ({_signal_name(-done.returncode)})")
    lines = done.stderr.strip().splitlines()
    return Probe(values, lines[-1] if lines else f"exit code {done.returncode}")


def check_machine() -> list[Check]:
    """Check everything that the backends need. Takes a few seconds and never raises."""
    gpu, no_gpu = gpu_or_reason()
    jetson = find_jetson()
    looks: list[Callable[[], list[Check]]] = [
        lambda: [_software(), _cpu()],
        lambda: _gpu(gpu, no_gpu),
        lambda: _jetson(jetson),
        lambda: [_tensorrt("tensorrt", gpu, jetson)],
        lambda: [_tensorrt("tensorrt-rtx", gpu, jetson)],
        lambda: [_cuda_bindings(gpu, jetson)],
        lambda: [_package("pycuda", "pycuda", _PYCUDA, "", "")],
        lambda: [_onnxruntime(gpu)],
        lambda: [_package("OpenVINO", "openvino", _OPENVINO, "openvino", _devices)],
        lambda: [_package("LiteRT", "ai_edge_litert", _LITERT, "litert", "")],
        lambda: [_package("torch", "torch", _TORCH, "train", _torch_cuda)],
    ]
    # Two at a time: most of the time is the import of torch and OpenVINO.
    with ThreadPoolExecutor(max_workers=2) as pool:
        return [check for checks in pool.map(_guarded, looks) for check in checks]


def _guarded(look: Callable[[], list[Check]]) -> list[Check]:
    try:
        return look()
    except Exception as error:  # a report with one bad row is better than no report
        if of_signal_handler(error):
            raise
        return [Check("fer-edge doctor", "problem", f"{type(error).__name__}: {error}")]


def _software() -> Check:
    found = f"{__version__}, Python {platform.python_version()}, {platform.system()} "
    return Check("fer-edge", "info", found + platform.machine())


def _cpu() -> Check:
    features = cpu_features()
    found = ", ".join(sorted(features)) or "none of the features that matter for inference"
    if int8_dot_saturates(features):
        found += " (INT8 products can saturate: weight scales are chosen to prevent it)"
    kind, why = fitting_weights(features)
    found += f"; of a bundle's INT8 graphs, the one with {kind} weights is used: {why}"
    return Check("CPU", "info", found)


def _gpu(gpu: Gpu | None, reason: str) -> list[Check]:
    if gpu is None:
        driver = Check(
            "CUDA driver", "missing", reason, "needed for TensorRT only: install NVIDIA's driver"
        )
        return [driver]
    memory = f"{gpu.memory_bytes / 2**30:.0f} GiB{', shared with the CPU' * gpu.integrated}"
    return [
        Check("CUDA driver", "ok", f"CUDA {gpu.driver}"),
        Check("GPU", "ok", f"{gpu.name}, sm_{gpu.sm}, {memory}"),
    ]


def _jetson(jetson: Jetson | None) -> list[Check]:
    if jetson is None:
        return []
    release = f"JetPack {jetson.jetpack}" if jetson.jetpack else "JetPack of unknown release"
    checks = [Check("Jetson", "ok", f"{jetson.model}, {release}, L4T {jetson.l4t}")]
    mode = power_mode()
    if mode:
        fix = "" if mode.startswith("MAXN") else "for the fastest mode: sudo nvpmodel -m 0"
        checks.append(Check("power mode", "info", mode, fix))
    return checks


_TENSORRT = """
import json, {module} as trt
print(json.dumps({{"version": trt.__version__}}), flush=True)
if {build}:
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    print(json.dumps({{"builder": builder is not None}}), flush=True)
    print(json.dumps({{"dla": getattr(builder, "num_DLA_cores", 0)}}))
"""


def _tensorrt(flavour: str, gpu: Gpu | None, jetson: Jetson | None) -> Check:
    kind = FLAVOURS[flavour]
    module = next((name for name in kind.modules if is_installed(name)), None)
    if module is None:
        fix = f"pip install 'fer-edge[{kind.extra}]'"
        if jetson is not None and flavour == "tensorrt":
            fix = _jetson_tensorrt(jetson)
        return Check(kind.title, "missing", "not installed", fix)
    build = kind.builds_without_gpu or gpu is not None
    answer = probe(_TENSORRT.format(module=module, build=build))
    version = str(answer.values.get("version", ""))
    if not version:
        return Check(kind.title, "problem", f"{module}: {answer.error}", _reinstall(kind.extra))
    found = f"{version} ({module})"
    if answer.error or answer.values.get("builder") is False:
        reason = answer.error or "its builder is null"
        message = f"{found}, and its builder fails: {reason}"
        return Check(kind.title, "problem", message, _reinstall(kind.extra))
    if not build:
        return Check(kind.title, "problem", f"{found}; without a GPU it cannot build or run plans")
    if gpu is None:
        return Check(kind.title, "ok", f"{found}; builds plans here, but needs a GPU to run them")
    cores = int(answer.values.get("dla", 0))
    if cores:
        found += f", {cores} DLA core{'s' * (cores > 1)} (--target tensorrt-dla)"
    return Check(kind.title, "ok", found)


def _jetson_tensorrt(jetson: Jetson) -> str:
    """Return how TensorRT is installed on a board; TensorRT 11 does not come with JetPack."""
    fix = "it comes with JetPack: sudo apt install nvidia-jetpack, and make the venv with "
    fix += f"--system-site-packages; then pip install 'fer-edge[{_jetson_extra(jetson)}]'"
    eleven = "AGX Orin" in jetson.model or "Thor" in jetson.model
    if eleven and _jetson_extra(jetson) == "jetpack7":
        fix += "; for TensorRT 11 (JetPack 7.2.2): NVIDIA's SBSA packages of 11.4.1 or later"
    return fix


def _jetson_extra(jetson: Jetson) -> str:
    """Return the extra with the CUDA packages of a board's JetPack."""
    return "jetpack6" if jetson.l4t.startswith("36.") else "jetpack7"


_CUDA = 'import json, cuda.bindings as c; print(json.dumps({"version": c.__version__}))'
_PYCUDA = 'import json, pycuda as c; print(json.dumps({"version": c.VERSION_TEXT}))'
_ORT = """
import json, onnxruntime as o
print(json.dumps({"version": o.__version__, "providers": o.get_available_providers()}))
"""
_OPENVINO = """
import json, openvino as o
print(json.dumps({"version": o.__version__.partition("-")[0]}), flush=True)
print(json.dumps({"devices": o.Core().available_devices}))
"""
_LITERT = """
import json, ai_edge_litert as l
print(json.dumps({"version": l.__version__}), flush=True)
import ai_edge_litert.interpreter
"""
_TORCH = """
import json, torch as t
print(json.dumps({"version": t.__version__}), flush=True)
print(json.dumps({"cuda": t.version.cuda if t.cuda.is_available() else ""}))
"""


def _cuda_bindings(gpu: Gpu | None, jetson: Jetson | None) -> Check:
    extra = "tensorrt" if jetson is None else _jetson_extra(jetson)
    check = _package("cuda-bindings", "cuda.bindings", _CUDA, extra if gpu else "", "")
    if check.status != "ok" or gpu is None:
        return check
    mine, driver = int(check.found.partition(".")[0]), int(gpu.driver.partition(".")[0])
    if mine <= driver:
        return check
    return Check(
        check.name,
        "problem",
        f"{check.found} is for CUDA {mine}, but the driver supports CUDA {gpu.driver}",
        f"pip install 'cuda-bindings>={driver},<{driver + 1}'",
    )


def _onnxruntime(gpu: Gpu | None) -> Check:
    def providers(values: Mapping[str, Any]) -> str:
        names = [str(name).removesuffix("ExecutionProvider") for name in values["providers"]]
        return f", providers: {', '.join(names)}"

    return _package("ONNX Runtime", "onnxruntime", _ORT, "", providers)


def _devices(values: Mapping[str, Any]) -> str:
    return f", devices: {', '.join(values['devices'])}"


def _torch_cuda(values: Mapping[str, Any]) -> str:
    return f", CUDA {values['cuda']}" if values["cuda"] else ", CPU only here"


def _package(
    name: str,
    module: str,
    code: str,
    extra: str,
    more: Callable[[Mapping[str, Any]], str] | str,
) -> Check:
    """Check one package. Without an ``extra``, there is no fix for a missing package."""
    if not is_installed(module):
        fix = f"pip install 'fer-edge[{extra}]'" if extra else ""
        return Check(name, "missing", "not installed", fix)
    answer = probe(code)
    version = str(answer.values.get("version", ""))
    if answer.error:
        found = f"{version}: {answer.error}" if version else answer.error
        return Check(name, "problem", found, _reinstall(extra) if extra else f"reinstall {name}")
    return Check(name, "ok", version + (more(answer.values) if callable(more) else more))


def _reinstall(extra: str) -> str:
    return f"pip install --force-reinstall 'fer-edge[{extra}]'"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
