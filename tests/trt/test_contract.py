"""Our code against the real API of five TensorRT releases and TensorRT-RTX, a process for each.

Nothing of these releases' libraries runs here: NVIDIA's own bindings say which classes,
properties, calls and enums there are, and fakes that obey them do the work. What real libraries
do with it is tested with TensorRT-RTX (test_plan_rtx.py) and on devices (bench/device_check.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from api_names import GUARDED_NAMES, all_used_names
from stub_bindings import BINDINGS, HERE

API = json.loads((HERE / "api.json").read_text(encoding="utf-8"))
TYPED = {"8.6.1": False, "10.3.0": True, "10.7.0": True, "10.13.3.9": True, "11.4.0.106": True}


def child(script: str, folder: str, module: str, cache: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "error", str(HERE / script), folder, module]
    environment = {**os.environ, "FER_EDGE_CACHE": str(cache)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(params=[*BINDINGS, "rtx"])
def release(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str, str]:
    """(version, folder, module) of one release; skips where its bindings cannot be had."""
    if request.param == "rtx":
        rtx: ModuleType = request.getfixturevalue("rtx")
        return f"rtx-{rtx.__version__}", "-", "tensorrt_rtx_bindings"
    get: Callable[[str], Path] = request.getfixturevalue("bindings")
    return request.param, str(get(request.param)), "tensorrt_bindings"


def test_our_code_builds_and_runs_against_this_release(
    release: tuple[str, str, str], tmp_path: Path
) -> None:
    version, folder, module = release
    report = child("contract_child.py", folder, module, tmp_path)
    assert report["version"] == version.removeprefix("rtx-")
    builds = report["builds"]
    typed = TYPED.get(version, True)
    # Precision is in the graph; only 8.6 needs it told again, as permissions.
    flags = {word: builds[word]["seen"]["flags"] for word in ("fp32", "fp16", "int8")}
    if version.startswith("rtx"):
        # Without it the plan may allocate while it runs, and cannot be captured into a CUDA graph.
        assert flags == {word: ["REQUIRE_USER_ALLOCATION"] for word in flags}
        flags = {word: [] for word in flags}
    assert flags == {
        "fp32": [],
        "fp16": [] if typed else ["FP16"],
        "int8": [] if typed else ["FP16", "INT8"],
    }
    assert builds["fp32"]["seen"]["cleared"] == ["TF32"]
    for word in ("fp32", "fp16", "int8"):
        built = builds[word]["ok"]
        assert built["precision"] == word
        assert built["strongly_typed"] is typed
        assert built["layers file"]
        assert builds[word]["progress"] == ([] if version == "8.6.1" else [0, 500, 1000])
    # STRONGLY_TYPED is bit 1 in 10.x and bit 0 in 11.x; 8.6 has EXPLICIT_BATCH, bit 0.
    assert builds["fp32"]["seen"]["network flags"] == (2 if version.startswith("10.") else 1)
    assert builds["refused"]["exit"] == 2
    assert "at QuantizeLinear 'stem_Q'" in builds["refused"]["error"]
    assert "UINT8" in builds["uint8"]["error"]
    assert "'conv1 + relu'" in builds["unbuildable"]["error"]
    assert report["run"]["exact"] == [True] * 4
    assert report["run"]["provider"].endswith("CUDA graphs")
    assert report["alive"] == {}, "CUDA resources outlive the backend"
    check_dla(version, report.get("dla"))


def check_dla(version: str, dla: dict[str, Any] | None) -> None:
    """10.3 and 10.7 get ranges for the FP32 graph and two flags, 11.4 Q/DQ and the parser's."""
    if version not in {"10.3.0", "10.7.0", "11.4.0.106"}:
        assert dla is None
        return
    assert dla is not None
    built, seen = dla["built"], dla["seen"]
    old = version.startswith("10.")
    assert (seen["device"], seen["core"]) == ("DLA", 0)
    assert seen["flags"] == (["FP16", "GPU_FALLBACK", "INT8"] if old else ["GPU_FALLBACK"])
    # EXPLICIT_BATCH, which 10.x ignores, and never STRONGLY_TYPED; in 11.x that is bit 0.
    assert seen["network flags"] == 1
    assert built["strongly_typed"] is not old
    assert (len(seen["ranges"]) > 0) is old
    assert seen.get("parser flags", []) == (
        [] if old else ["ADJUST_FOR_DLA", "REPORT_CAPABILITY_DLA"]
    )
    assert built["precision"] == "int8"
    assert built["batch"] == {"min": 1, "opt": 1, "max": 1}
    assert (built["dla_core"], built["dla_share"]) == (0, 0.9901)
    assert built["gpu_layers"]["/fc/Gemm"] == "the DLA cannot run MATRIX_MULTIPLY"
    assert "DLA" in built["gpu_layers"]["/GlobalAveragePool"]
    # The runtime was told the core before it loaded the plan.
    assert dla["core"] == 1
    assert dla["exact"]
    assert "DLA core 1" in dla["provider"]


def test_the_committed_api_table_is_what_the_bindings_say(
    release: tuple[str, str, str], tmp_path: Path
) -> None:
    version, folder, module = release
    said = child("api_names.py", folder, module, tmp_path)
    table = sorted(name for name, versions in API["names"].items() if version in versions)
    assert said["names"] == table


def test_the_committed_api_table_holds_every_name_that_we_use() -> None:
    """Always run: a name that our code starts to use must be looked up in all releases."""
    assert sorted(API["names"]) == all_used_names(), (
        "run: python tests/trt/write_api.py (with network access)"
    )


def test_names_that_some_release_lacks_are_asked_for_before_use() -> None:
    releases = set(BINDINGS)
    rtx = next(version for version in API["releases"] if version.startswith("rtx"))
    for name, versions in API["names"].items():
        if name in GUARDED_NAMES or name.startswith(RTX_ONLY):
            continue
        assert releases | {rtx} <= set(versions), f"{name} is only in {versions}"


# Used by TensorRTRTXBackend alone.
RTX_ONLY = (
    "IRuntimeConfig.",
    "IRuntimeCache.",
    "ICudaEngine.create_runtime_config",
    "DynamicShapesKernelSpecializationStrategy",
    "ComputeCapability",
)


def test_the_table_has_what_the_design_says_of_the_four_releases() -> None:
    names = API["names"]
    modern = ["10.3.0", "10.13.3.9", "11.4.0.106"]
    assert set(names["NetworkDefinitionCreationFlag.STRONGLY_TYPED"]) >= set(modern)
    assert "8.6.1" not in names["NetworkDefinitionCreationFlag.STRONGLY_TYPED"]
    assert "11.4.0.106" not in names["BuilderFlag.INT8"]
    assert "8.6.1" not in names["IProgressMonitor"]
