"""The runner's TensorRT engine, compiled and run against stand-ins for TensorRT and CUDA.

These tests show that the file compiles against NVIDIA's CUDA headers, and that it chooses, checks,
loads, captures and runs a plan. They cannot show that it works with the real TensorRT on a device.
"""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fixtures_bundle import BundleMaker, golden_images

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.files import sha256_bytes
from fer_edge.preprocessing import Preprocessing
from fer_edge.trt.sidecar import PlanSidecar

if TYPE_CHECKING:
    from conftest import Runner

FAKES = Path(__file__).parent / "fake_tensorrt"


@pytest.fixture(autouse=True)
def _needs_the_stand_in(runner: Runner) -> None:
    if not runner.tensorrt:
        pytest.skip("no CUDA headers here (they come with the triton wheel of torch)")


def fake_logits(images: np.ndarray, *, floats: bool) -> np.ndarray:
    """What the stand-in computes: see fake_nvinfer.cpp."""
    pixels = images[:, 0].astype(np.float64) * 0.001
    if floats:
        pixels = Preprocessing().normalise(images)[:, 0].astype(np.float64)
    rows = pixels.sum(2)[:, :42].reshape(len(images), 7, 6)
    return rows.sum(2).astype(np.float32)


def add_plan(bundle: Bundle, content: bytes, **fields: Any) -> Path:
    parent = bundle.artifact(format="onnx", precision="fp32")
    facts: dict[str, Any] = {
        "package": "tensorrt",
        "tensorrt": "10.3.0.26",
        "sm": 87,
        "gpu": "Orin",
        "target": "orin-jp62",
        "precision": "fp16",
        "parent_sha256": parent.sha256,
        "sha256": sha256_bytes(content),
        "size": len(content),
        "batch": {"min": 1, "opt": 1, "max": 16},
        "input": {"name": "images", "dtype": "uint8"},
        "output": {"name": "logits", "dtype": "float32"},
        "build_seconds": 1.0,
        "created": "2026-11-23T00:00:00+00:00",
    }
    facts.update(fields)
    sizes = f"-{facts['multiprocessors']}sm" if "multiprocessors" in facts else ""
    sizes += "-dla" if facts.get("dla_core") is not None else ""
    name = f"engines/sm{facts['sm']}{sizes}-trt10.3.0-{facts['precision']}"
    with BundleWriter(bundle.path, base=bundle) as writer:
        writer.add_bytes(
            content,
            f"{name}.plan",
            format="plan",
            precision=facts["precision"],
            target=PlanSidecar(**facts).backend,
            parent=parent,
        )
        sidecar = json.dumps(PlanSidecar(**facts).to_dict()).encode()
        writer.add_bytes(sidecar, f"{name}.json", format="json", parent=f"{name}.plan")
    return bundle.path / f"{name}.plan"


@pytest.fixture
def bundle(bundle_maker: BundleMaker) -> Bundle:
    """A bundle whose golden logits are the stand-in's."""
    bundle = bundle_maker(int8=())
    images = golden_images()
    buffer = io.BytesIO()
    np.savez(buffer, images=images, logits=fake_logits(images, floats=False))
    with BundleWriter(bundle.path, base=bundle) as writer:
        writer.add_bytes(buffer.getvalue(), "golden.npz", format="npz")
    return Bundle.open(bundle.path)


def last_line(stdout: str) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    return line


def test_a_plan_is_preferred_and_run_as_a_cuda_graph(
    runner: Runner, bundle: Bundle, tmp_path: Path
) -> None:
    add_plan(bundle, b"FAKEPLAN u8")
    images = golden_images(3, seed=4)
    for i, image in enumerate(images):
        (tmp_path / f"{i}.raw").write_bytes(image.tobytes())
    result = runner(bundle.path, *sorted(tmp_path.glob("*.raw")))
    assert result.returncode == 0, result.stderr
    summary = last_line(result.stdout)
    assert summary["backend"] == summary["engine"] == "tensorrt"
    assert summary["model"] == "engines/sm87-trt10.3.0-fp16.plan"
    assert summary["provider"] == "TensorRT 10.3.0.26, sm_87, CUDA graph"
    expected = fake_logits(images, floats=False)
    exponentials = np.exp(expected - expected.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    for line, row in zip(result.stdout.splitlines(), probabilities):
        assert np.allclose(list(json.loads(line)["probabilities"].values()), row, atol=1e-5)


def test_without_a_graph(runner: Runner, bundle: Bundle) -> None:
    add_plan(bundle, b"FAKEPLAN u8")
    plain = last_line(runner(bundle.path, "--no-graph").stdout)
    assert plain["provider"] == "TensorRT 10.3.0.26, sm_87"
    refused = last_line(runner(bundle.path, FAKE_CUDA="no capture").stdout)
    assert refused["provider"].startswith("TensorRT 10.3.0.26, sm_87, no CUDA graph (")


def test_a_plan_that_takes_float_pixels(runner: Runner, bundle: Bundle) -> None:
    images = golden_images()
    buffer = io.BytesIO()
    np.savez(buffer, images=images, logits=fake_logits(images, floats=True))
    with BundleWriter(bundle.path, base=bundle) as writer:
        writer.add_bytes(buffer.getvalue(), "golden.npz", format="npz")
    add_plan(Bundle.open(bundle.path), b"FAKEPLAN f32", precision="fp32")
    result = runner(bundle.path, "--backend", "tensorrt")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("fields", "env", "code", "words"),
    [
        (
            {},
            {"FAKE_SM": "90"},
            5,
            "built with TensorRT 10.3.0.26 for sm_87, this is TensorRT 10.3.0.26",
        ),
        ({"tensorrt": "8.6.2"}, {}, 5, "built with TensorRT 8.6.2 for sm_87"),
        # Another build of the release, and a library that is newer than the runner's headers.
        ({"tensorrt": "10.3.0.30"}, {}, 5, "10.3.0.30 for sm_87, this is TensorRT 10.3.0.26 on"),
        ({}, {"FAKE_VERSION": "10.7.0.23"}, 5, "this is TensorRT 10.7.0.23 on sm_87"),
        ({"memory_mib": -(2**31), "multiprocessors": 8}, {"FAKE_TENSORRT": "fail"}, 4, "failed"),
        ({}, {"FAKE_CUDA": "no device"}, 5, "no CUDA-capable device"),
        ({}, {"FAKE_TENSORRT": "other shape"}, 5, "not exported by fer-edge"),
        ({}, {"FAKE_TENSORRT": "fail"}, 4, "TensorRT failed"),
        ({"sha256": "0" * 64}, {}, 6, "it describes another plan"),
        ({"schema": 2}, {}, 6, "it has schema 2, this runner reads schema 1"),
    ],
)
def test_a_plan_that_may_not_be_used(
    runner: Runner,
    bundle: Bundle,
    fields: dict[str, Any],
    env: dict[str, str],
    code: int,
    words: str,
) -> None:
    add_plan(bundle, b"FAKEPLAN u8", **fields)
    result = runner(bundle.path, "--backend", "tensorrt", **env)
    assert result.returncode == code, result.stderr
    assert words in result.stderr
    assert result.stderr.count("\n") <= 2


def test_what_tensorrt_logs_says_why_a_plan_does_not_load(runner: Runner, bundle: Bundle) -> None:
    add_plan(bundle, b"no plan at all")
    result = runner(bundle.path, "--backend", "tensorrt")
    assert result.returncode == 5
    assert "cannot load" in result.stderr
    assert "magicTag does not match" in result.stderr
    command = f"fer-edge build {bundle.path} --precision fp16 --target tensorrt"
    assert f"fix:   {command}" in result.stderr


def test_the_plan_of_this_device_is_chosen(runner: Runner, bundle: Bundle) -> None:
    add_plan(bundle, b"FAKEPLAN f32", sm=90)
    add_plan(Bundle.open(bundle.path), b"FAKEPLAN u8", sm=87)
    chosen = last_line(runner(bundle.path).stdout)
    assert chosen["model"] == "engines/sm87-trt10.3.0-fp16.plan"
    neither = runner(bundle.path, FAKE_SM="110")
    assert neither.returncode == 5
    assert "on sm_110; engines/sm87-trt10.3.0-fp16.plan was built" in neither.stderr


@pytest.mark.parametrize("built", ["10.3", "10.3.0", "10.3.0.26", "10.3.0.26.post1"])
def test_the_build_number_counts_where_both_sides_know_it(
    runner: Runner, bundle: Bundle, built: str
) -> None:
    add_plan(bundle, b"FAKEPLAN u8", tensorrt=built)
    assert runner(bundle.path, "--backend", "tensorrt").returncode == 0


def test_the_plan_of_this_size_of_gpu_is_preferred(runner: Runner, bundle: Bundle) -> None:
    """AGX Orin, NX and Nano have one compute capability: a plan of another loads, but says so."""
    add_plan(bundle, b"FAKEPLAN u8", multiprocessors=16, memory_mib=62840)
    alone = last_line(runner(bundle.path).stdout)
    assert "built on 16 SMs, 61 GiB, this is 8 SMs, 7 GiB" in alone["provider"]
    # The fake GPU has 7,620 MiB: what the system takes for itself is no other board.
    add_plan(Bundle.open(bundle.path), b"FAKEPLAN u8", multiprocessors=8, memory_mib=7400)
    own = last_line(runner(bundle.path).stdout)
    assert own["model"] == "engines/sm87-8sm-trt10.3.0-fp16.plan"
    assert "built on" not in own["provider"]
    assert "16sm" in last_line(runner(bundle.path, FAKE_SMS="16").stdout)["model"]


@pytest.mark.parametrize(
    ("option", "memory", "mapped"),
    [
        (["--memory", "mapped"], "", True),
        (["--memory", "copied"], "mapped", False),
        ([], "mapped", True),
        ([], "copied", False),
        ([], "", False),
    ],
)
def test_mapped_memory_is_not_copied(
    runner: Runner, bundle: Bundle, tmp_path: Path, option: list[str], memory: str, mapped: bool
) -> None:
    add_plan(bundle, b"FAKEPLAN u8", multiprocessors=8, memory_mib=7620, memory=memory)
    calls = tmp_path / "calls"
    result = runner(bundle.path, *option, FAKE_CALLS=str(calls))
    assert result.returncode == 0, result.stderr
    assert ("mapped memory" in last_line(result.stdout)["provider"]) is mapped
    made = calls.read_text().split("\n")
    assert ("cudaMemcpyAsync" in made) is not mapped
    assert f"cudaHostAlloc {2 if mapped else 0}" in made


def test_a_gpu_that_cannot_map_memory_is_an_error(runner: Runner, bundle: Bundle) -> None:
    add_plan(bundle, b"FAKEPLAN u8")
    result = runner(bundle.path, "--memory", "mapped", FAKE_CUDA="no mapped memory")
    assert result.returncode == 5
    assert "fix:   --memory copied" in result.stderr


@pytest.mark.parametrize(("wait", "flags"), [("auto", None), ("spin", 1), ("block", 4)])
def test_how_to_wait_is_set_before_anything_makes_the_context(
    runner: Runner, bundle: Bundle, tmp_path: Path, wait: str, flags: int | None
) -> None:
    add_plan(bundle, b"FAKEPLAN u8")
    calls = tmp_path / "calls"
    result = runner(bundle.path, "--wait", wait, FAKE_CALLS=str(calls))
    assert (f"wait: {wait}" in last_line(result.stdout)["provider"]) is (wait != "auto")
    first = calls.read_text().splitlines()[0]
    assert first == ("cudaHostAlloc 0" if flags is None else f"cudaSetDeviceFlags {flags}")


@pytest.mark.parametrize(
    ("option", "first"), [("--memory", "auto"), ("--wait", "auto"), ("--dla-core", "0")]
)
def test_a_wrong_value_of_an_option_is_named(
    runner: Runner, bundle: Bundle, option: str, first: str
) -> None:
    result = runner(bundle.path, option, "fast")
    assert result.returncode == 2
    assert f"error: {option} has no value 'fast'\nfix:   choose from: {first}, " in result.stderr


@pytest.mark.parametrize("suffix", [".plan", ".json"])
def test_a_flipped_byte_of_a_plan_or_its_json_is_refused(
    runner: Runner, bundle: Bundle, suffix: str
) -> None:
    path = add_plan(bundle, b"FAKEPLAN u8").with_suffix(suffix)
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    result = runner(bundle.path)
    assert result.returncode == 6
    assert path.name in result.stderr


def test_a_plan_without_its_json_is_refused(runner: Runner, bundle: Bundle) -> None:
    path = add_plan(bundle, b"FAKEPLAN u8")
    with BundleWriter(bundle.path, base=Bundle.open(bundle.path)) as writer:
        writer.remove("engines/" + path.with_suffix(".json").name)
    result = runner(bundle.path)
    assert result.returncode == 6
    assert "does not list it" in result.stderr


@pytest.mark.parametrize(("options", "core"), [([], 0), (["--dla-core", "1"], 1)])
def test_a_plan_of_the_dla_is_loaded_on_its_core_if_the_dla_is_asked_for(
    runner: Runner, bundle: Bundle, tmp_path: Path, options: list[str], core: int
) -> None:
    add_plan(bundle, b"FAKEPLAN u8", precision="int8", dla_core=0)
    calls = tmp_path / "calls"
    result = runner(bundle.path, "--backend", "tensorrt-dla", *options, FAKE_CALLS=str(calls))
    assert result.returncode == 0, result.stderr
    line = last_line(result.stdout)
    assert line["backend"] == "tensorrt-dla"
    assert line["model"] == "engines/sm87-dla-trt10.3.0-int8.plan"
    assert line["provider"] == f"TensorRT 10.3.0.26, sm_87, DLA core {core}, CUDA graph"
    assert f"loaded on core {core}" in calls.read_text().splitlines()
    # Without its name the DLA is not used: not by TensorRT's backend, nor as the first that fits.
    refused = runner(bundle.path, "--backend", "tensorrt")
    assert refused.returncode == 2
    assert "has no fp32 plan for tensorrt" in refused.stderr
    add_plan(Bundle.open(bundle.path), b"FAKEPLAN u8", precision="fp16")
    chosen = last_line(runner("--choose", bundle.path).stdout)
    assert chosen["backend"] == "tensorrt"
    assert chosen["model"] == "engines/sm87-trt10.3.0-fp16.plan"


@pytest.mark.parametrize(
    ("cores", "fix"), [("1", "--dla-core 0"), ("0", "build for the GPU: --target tensorrt")]
)
def test_a_dla_core_that_is_not_there_is_an_error(
    runner: Runner, bundle: Bundle, cores: str, fix: str
) -> None:
    add_plan(bundle, b"FAKEPLAN u8", precision="int8", dla_core=0)
    command = [bundle.path, "--backend", "tensorrt-dla", "--dla-core", "1"]
    result = runner(*command, FAKE_DLA=cores)
    assert result.returncode == 5
    said = f"runs on a DLA, and TensorRT finds no core 1 here, but {cores}\nfix:   {fix}\n"
    assert said in result.stderr


def test_a_bundle_without_a_plan_of_the_dla_names_the_command(
    runner: Runner, bundle: Bundle
) -> None:
    add_plan(bundle, b"FAKEPLAN u8")
    for options in ([], ["--precision", "fp16"]):
        result = runner(bundle.path, "--backend", "tensorrt-dla", *options)
        assert result.returncode == 2
        assert f"{bundle.path} --precision int8 --target tensorrt-dla" in result.stderr


def test_tensorrt_rtx_plans_are_not_taken(runner: Runner, bundle: Bundle) -> None:
    add_plan(bundle, b"FAKEPLAN u8", package="tensorrt-rtx")
    result = runner(bundle.path, "--backend", "tensorrt")
    assert result.returncode == 2
    assert f"fer-edge build {bundle.path} --precision fp32 --target tensorrt" in result.stderr


def test_it_compiles_for_tensorrt_8_6(runner: Runner, tmp_path: Path) -> None:
    triton = next(
        line.partition("=")[2]
        for line in (runner.build / "CMakeCache.txt").read_text().splitlines()
        if line.startswith("CUDART_INCLUDE_DIR")
    )
    json_dir = next(
        line.partition("=")[2]
        for line in (runner.build / "CMakeCache.txt").read_text().splitlines()
        if line.startswith("NLOHMANN_JSON_INCLUDE_DIR")
    )
    source = Path(__file__).parents[2] / "engines" / "cpp" / "src" / "engine_tensorrt.cpp"
    version = ["-DNV_TENSORRT_MAJOR=8", "-DNV_TENSORRT_MINOR=6", "-DNV_TENSORRT_PATCH=1"]
    result = subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", *version]
        + [f"-isystem{folder}" for folder in (triton, json_dir, FAKES)]
        + [str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
