"""The runtime on a fake GPU: data, waiting, graphs, threads, resources, and every refusal.

Where streams do their work only when they are waited for, a logit that is right was waited for.
"""

from __future__ import annotations

import gc
import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCudart, FakePyCuda
from fake_tensorrt import FakeContext, fake_tensorrt, logits_of

from fer_edge.backends import tensorrt as backend_module
from fer_edge.backends.tensorrt import TensorRTBackend, TensorRTRTXBackend
from fer_edge.bundle import Artifact, Bundle, Manifest
from fer_edge.errors import (
    EngineMismatchError,
    FerEdgeError,
    IntegrityError,
    NumericsError,
    UnavailableError,
    UsageError,
)
from fer_edge.files import sha256_bytes
from fer_edge.preprocessing import Preprocessing
from fer_edge.trt.cuda_bindings import CudaBindings
from fer_edge.trt.cuda_pycuda import PyCuda
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.lane import LaneOptions
from fer_edge.trt.sidecar import PlanSidecar

ORIN = Gpu("Orin (nvgpu)", 87, "12.6", 8 << 30, True, True, 8, 918)
IMAGES = np.random.default_rng(7).integers(0, 256, (37, 1, 48, 48), np.uint8)
SIDECAR = PlanSidecar(
    package="tensorrt",
    tensorrt="10.3.0",
    sm=87,
    gpu="Orin (nvgpu)",
    target="orin-jp62",
    precision="int8",
    parent_sha256="0" * 64,
    sha256="",
    size=0,
    batch={"min": 1, "opt": 1, "max": 8},
    input={"name": "images", "dtype": "uint8", "shape": [-1, 1, 48, 48]},
    output={"name": "logits", "dtype": "float", "shape": [-1, 7]},
    build_seconds=1.0,
    created="2026-01-01T00:00:00+00:00",
)


class Rig:
    """A plan file with its sidecar, a fake library and a fake CUDA."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cudart = FakeCudart()
        self.trt = fake_tensorrt("10.3.0", streams=self.cudart)
        self.plan = folder / "sm87-trt10.3.0-int8.plan"

    def write(self, sidecar: PlanSidecar = SIDECAR, **word: Any) -> Path:
        content = json.dumps({"input": "UINT8", "batch": [1, 1, 8], **word}).encode()
        self.plan.write_bytes(content)
        replace(sidecar, sha256=sha256_bytes(content), size=len(content)).write(self.plan)
        return self.plan

    def backend(self, **options: Any) -> TensorRTBackend:
        options = {"trt": self.trt, "cuda": CudaBindings(self.cudart), "gpu": ORIN, **options}
        return TensorRTBackend(self.plan, precision="int8", **options)


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    rig = Rig(tmp_path)
    rig.write()
    return rig


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
def test_logits_are_the_plans_for_every_batch(rig: Rig, graphs: bool, mapped: bool) -> None:
    with rig.backend(options=LaneOptions(graphs=graphs, mapped=mapped)) as backend:
        for n in (1, 2, 8, 9, 37, 1, 3):
            assert np.array_equal(backend.infer(IMAGES[:n]), logits_of(IMAGES[:n]))
        assert ("mapped memory" in backend.provider) is mapped
    assert rig.cudart.alive() == {}
    assert ("cudaMemcpyAsync" in rig.cudart.calls) is not mapped


def test_the_result_belongs_to_the_caller(rig: Rig) -> None:
    with rig.backend() as backend:
        first = backend.infer(IMAGES[:1])
        kept = first.copy()
        backend.infer(IMAGES[1:2])
        assert np.array_equal(first, kept)
        assert first.dtype == np.float32
        first[:] = 0  # writable


def test_strided_images_are_read_right(rig: Rig) -> None:
    with rig.backend() as backend:
        flipped = IMAGES[:3, :, :, ::-1]
        assert np.array_equal(backend.infer(flipped), logits_of(np.ascontiguousarray(flipped)))


@pytest.mark.parametrize(
    "images", [np.zeros((1, 48, 48), np.uint8), np.zeros((1, 1, 48, 48), np.float32), None]
)
def test_other_images_are_refused(rig: Rig, images: Any) -> None:
    with rig.backend() as backend, pytest.raises(UsageError):
        backend.infer(images)


def test_float_plans_get_normalised_pixels(rig: Rig) -> None:
    rig.write(input="FLOAT")
    preprocessing = Preprocessing(mean=0.4, std=0.3)
    with rig.backend(preprocessing=preprocessing) as backend:
        wanted = logits_of(preprocessing.normalise(IMAGES[:4]))
        assert np.array_equal(backend.infer(IMAGES[:4]), wanted)


def test_a_batch_size_is_captured_once_and_then_launched(rig: Rig) -> None:
    with rig.backend() as backend:
        contexts = rig.trt.seen["contexts"]
        captures = rig.cudart.calls.count("cudaStreamBeginCapture")
        assert backend.provider == "TensorRT 10.3.0, sm_87, CUDA graphs"
        launches = rig.cudart.launches
        for _ in range(5):
            backend.infer(IMAGES[:1])
        assert rig.cudart.launches == launches + 5
        assert rig.cudart.calls.count("cudaStreamBeginCapture") == captures == 1
        # A graph keeps a context of its own: another batch size must not touch its shapes.
        backend.infer(IMAGES[:2])
        assert rig.trt.seen["contexts"] == contexts + 1


def test_only_the_last_few_graphs_are_kept(rig: Rig) -> None:
    with rig.backend() as backend:
        for n in range(1, 9):
            backend.infer(IMAGES[:n])
        assert rig.cudart.alive()["executable graph"] == 4
        assert np.array_equal(backend.infer(IMAGES[:1]), logits_of(IMAGES[:1]))


@pytest.mark.parametrize(
    "call", ["cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"]
)
def test_where_capture_fails_it_runs_without_and_says_so(rig: Rig, call: str) -> None:
    rig.cudart.fail = {call}
    with rig.backend() as backend:
        assert "no CUDA graphs: CUDA graph capture failed: " + call in backend.provider
        for n in (1, 5, 20):
            assert np.array_equal(backend.infer(IMAGES[:n]), logits_of(IMAGES[:n]))
    assert rig.cudart.alive() == {}


def test_a_library_that_cannot_be_captured_runs_without(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FakeContext.execute_async_v3

    def refuse_capture(self: FakeContext, stream_handle: int) -> bool:
        if stream_handle in rig.cudart.capturing:
            return False
        return run(self, stream_handle)

    monkeypatch.setattr(FakeContext, "execute_async_v3", refuse_capture)
    with rig.backend() as backend:
        assert "no CUDA graphs" in backend.provider
        assert np.array_equal(backend.infer(IMAGES[:3]), logits_of(IMAGES[:3]))
    assert rig.cudart.alive() == {}


def test_graphs_can_be_declined(rig: Rig) -> None:
    with rig.backend(options=LaneOptions(graphs=False)) as backend:
        assert "no CUDA graphs: not requested" in backend.provider
        assert rig.cudart.launches == 0


def test_device_time_is_measured_only_when_asked_for(rig: Rig) -> None:
    with rig.backend() as backend:
        backend.infer(IMAGES[:1])
        assert backend.device_ns is None
        assert "cudaEventRecord" not in rig.cudart.calls
    with rig.backend(options=LaneOptions(timed=True)) as backend:
        backend.infer(IMAGES[:1])
        assert backend.device_ns == 125_000  # the fake's events are an eighth of a ms apart


def test_threads_have_lanes_of_their_own(rig: Rig) -> None:
    wrong: list[int] = []

    def work(seed: int, backend: TensorRTBackend) -> None:
        random = np.random.default_rng(seed)
        for _ in range(30):
            images = random.integers(0, 256, (int(random.integers(1, 12)), 1, 48, 48), np.uint8)
            if not np.array_equal(backend.infer(images), logits_of(images)):
                wrong.append(seed)

    with rig.backend() as backend:
        threads = [threading.Thread(target=work, args=(seed, backend)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(rig.cudart.live["stream"]) > 1
    assert not wrong
    assert rig.cudart.alive() == {}


@pytest.mark.parametrize("wait", ["auto", "spin", "block"])
def test_pycuda_runs_the_same_without_graphs(rig: Rig, wait: str) -> None:
    driver = FakePyCuda()
    rig.trt.streams = driver
    options = LaneOptions(timed=True)
    with rig.backend(cuda=PyCuda(driver, wait), options=options) as backend:  # type: ignore[arg-type]
        assert "no CUDA graphs: pycuda has none" in backend.provider
        assert (f"wait: {wait}" in backend.provider) is (wait != "auto")
        for n in (1, 8, 11):
            assert np.array_equal(backend.infer(IMAGES[:n]), logits_of(IMAGES[:n]))
        assert backend.device_ns == 125_000
    assert driver.live == 0
    assert driver.stack == 0, "a context is left pushed"


def test_pycuda_maps_memory(rig: Rig) -> None:
    driver = FakePyCuda()
    rig.trt.streams = driver
    with rig.backend(cuda=PyCuda(driver), options=LaneOptions(mapped=True)) as backend:
        assert np.array_equal(backend.infer(IMAGES[:5]), logits_of(IMAGES[:5]))
    assert driver.live == 0


def test_pycuda_leaves_nothing_and_detaches_where_it_is_closed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pycuda frees streams and events with their last reference, in a current context only."""
    driver = FakePyCuda()
    rig.trt.streams = driver
    monkeypatch.setattr(backend_module, "open_cuda", lambda wait: PyCuda(driver, wait))
    backend = rig.backend(cuda=None, options=LaneOptions(timed=True, wait="block"))

    def use() -> None:
        with backend:
            thread = threading.Thread(target=lambda: backend.infer(IMAGES[:2]))
            thread.start()
            thread.join()
            assert driver.retained == 1
            backend.infer(IMAGES[:1])

    for _ in range(2):
        closer = threading.Thread(target=use)
        closer.start()
        closer.join()
    gc.collect()
    assert driver.warnings == [], "an object was destroyed without its context"
    assert driver.objects == 0
    assert driver.retained == 0
    assert driver.live == 0
    assert driver.stack == 0


def test_a_load_that_fails_releases_pycudas_context(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = FakePyCuda()
    rig.trt.streams = driver
    monkeypatch.setattr(backend_module, "open_cuda", lambda wait: PyCuda(driver, wait))
    content = b"no plan at all"
    rig.plan.write_bytes(content)
    replace(SIDECAR, sha256=sha256_bytes(content)).write(rig.plan)
    with pytest.raises(UnavailableError, match="magic tag"):
        rig.backend(cuda=None).load()
    assert (driver.retained, driver.stack) == (0, 0)


def test_close_twice_and_load_again(rig: Rig) -> None:
    backend = rig.backend()
    backend.close()
    backend.load()
    backend.load()
    backend.close()
    backend.close()
    assert backend.provider == ""
    with pytest.raises(UsageError, match="not loaded"):
        backend.infer(IMAGES[:1])
    backend.load()
    assert np.array_equal(backend.infer(IMAGES[:1]), logits_of(IMAGES[:1]))
    backend.close()
    assert rig.cudart.alive() == {}


@pytest.mark.parametrize("call", ["cudaMalloc", "cudaStreamCreateWithFlags"])
def test_a_load_that_fails_half_way_frees_what_it_took(rig: Rig, call: str) -> None:
    backend = rig.backend()
    rig.cudart.fail = {call}
    with pytest.raises(UnavailableError, match=call):
        backend.load()
    alive = rig.cudart.alive()
    # What the failing call itself "made" in the fake was never handed out.
    assert set(alive) <= {"device memory", "stream"}
    assert sum(alive.values()) == 1
    backend.close()


# What is refused before the library is asked


@pytest.mark.parametrize(
    ("built", "message"),
    [
        (
            {"tensorrt": "10.13.3.9"},
            "built with TensorRT 10.13.3.9 for sm_87, this is TensorRT 10.3.0",
        ),
        ({"sm": 90}, r"for sm_90, this is TensorRT 10\.3\.0 on sm_87"),
        ({"package": "tensorrt-rtx", "sm": None}, "built with TensorRT-RTX"),
    ],
)
def test_a_plan_of_another_release_or_gpu_is_refused(
    rig: Rig, built: dict[str, Any], message: str
) -> None:
    rig.write(replace(SIDECAR, **built))
    rig.trt.Runtime = None  # the library must not be asked
    with pytest.raises(EngineMismatchError, match=message) as caught:
        rig.backend().load()
    assert caught.value.exit_code == 5
    assert caught.value.fix == "fer-edge build --precision int8 --target tensorrt"


def test_a_build_number_that_only_one_side_knows_does_not_matter(rig: Rig) -> None:
    rig.write(replace(SIDECAR, tensorrt="10.3.0.30"))
    with rig.backend() as backend:
        assert np.array_equal(backend.infer(IMAGES[:2]), logits_of(IMAGES[:2]))


def test_a_plan_of_another_build_of_the_release_is_refused(rig: Rig) -> None:
    rig.trt.__version__ = "10.3.0.26"
    rig.write(replace(SIDECAR, tensorrt="10.3.0.30"))
    with pytest.raises(
        EngineMismatchError, match=r"10\.3\.0\.30 .*, this is TensorRT 10\.3\.0\.26"
    ):
        rig.backend().load()


NANO = {"board": "NVIDIA Jetson Orin Nano", "multiprocessors": 8, "memory_mib": 7620}


@pytest.mark.parametrize(
    ("built", "said"),
    [
        # A file of an earlier version does not know its board.
        ({}, ""),
        ({"board": "Orin (nvgpu)", "multiprocessors": 8, "memory_mib": 7900}, ""),
        (NANO, "built on NVIDIA Jetson Orin Nano (8 SMs, 7 GiB), this is Orin (nvgpu) (8 SMs"),
        (
            {"board": "Orin (nvgpu)", "multiprocessors": 16, "memory_mib": 62840},
            "built on Orin (nvgpu) (16 SMs, 61 GiB), this is Orin (nvgpu) (8 SMs, 8 GiB)",
        ),
    ],
)
def test_a_plan_of_another_board_of_one_compute_capability_says_so(
    rig: Rig, built: dict[str, Any], said: str
) -> None:
    rig.write(replace(SIDECAR, **built))
    with rig.backend() as backend:
        assert said in backend.provider
        assert ("built on" in backend.provider) is bool(said)
        assert np.array_equal(backend.infer(IMAGES[:1]), logits_of(IMAGES[:1]))


def test_memory_is_what_was_faster_when_the_plan_was_built(rig: Rig) -> None:
    here = {"board": "Orin (nvgpu)", "multiprocessors": 8, "memory_mib": 8192}
    for fields, mapped in (
        ({**here, "memory": "mapped"}, True),
        ({**here, "memory": "copied"}, False),
        ({**NANO, "memory": "mapped"}, False),  # measured on another board
    ):
        rig.write(replace(SIDECAR, **fields))
        with rig.backend() as backend:
            assert ("mapped memory" in backend.provider) is mapped
        with rig.backend(options=LaneOptions(mapped=not mapped)) as backend:
            assert ("mapped memory" in backend.provider) is not mapped


@pytest.mark.parametrize(("wait", "flags"), [("spin", 1), ("block", 4)])
def test_how_to_wait_is_set_before_the_context_and_recorded(
    rig: Rig, wait: Any, flags: int
) -> None:
    backend = rig.backend(cuda=CudaBindings(rig.cudart, wait))
    assert rig.cudart.calls.index("cudaSetDeviceFlags") < len(rig.cudart.calls) - 1 - (
        rig.cudart.calls[::-1].index("cudaSetDevice")
    )
    assert rig.cudart.flags == flags
    with backend:
        assert f"wait: {wait}" in backend.provider


def test_a_context_that_already_waits_otherwise_is_an_error(rig: Rig) -> None:
    rig.cudart.keeps_flags = True
    with pytest.raises(UnavailableError, match="uses the GPU already"):
        CudaBindings(rig.cudart, "block")


def test_options_come_from_the_environment(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_EDGE_TENSORRT", "wait=block, memory=mapped, graphs=no")
    backend = rig.backend(cuda=None)
    assert backend.options == LaneOptions(graphs=False, mapped=True, wait="block")
    opened: list[str] = []

    def open_cuda(wait: Any) -> CudaBindings:
        opened.append(wait)
        return CudaBindings(rig.cudart, wait)

    monkeypatch.setattr(backend_module, "open_cuda", open_cuda)
    with backend:
        assert "no CUDA graphs: not requested, mapped memory, wait: block" in backend.provider
    assert opened == ["block"]


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("wait=sleep", "choose from: wait=auto|spin|block"),
        ("memory", "choose from: memory=auto|copied|mapped"),
        ("spin", "choose from: wait, memory, graphs, dla"),
    ],
)
def test_a_wrong_word_in_the_environment_is_named(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, text: str, fix: str
) -> None:
    monkeypatch.setenv("FER_EDGE_TENSORRT", text)
    with pytest.raises(UsageError, match=f"FER_EDGE_TENSORRT has '{text}'") as caught:
        rig.backend()
    assert caught.value.fix == fix


def test_a_flipped_byte_is_refused(rig: Rig) -> None:
    content = bytearray(rig.plan.read_bytes())
    content[3] ^= 1
    rig.plan.write_bytes(content)
    with pytest.raises(IntegrityError, match="not the file") as caught:
        rig.backend().load()
    assert caught.value.exit_code == 6


def test_a_plan_without_its_sidecar_is_refused(rig: Rig) -> None:
    rig.plan.with_suffix(".json").unlink()
    with pytest.raises(IntegrityError, match=r"without sm87-trt10\.3\.0-int8\.json"):
        rig.backend().load()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 0}', '{"schema": 1}'])
def test_a_broken_sidecar_is_named(rig: Rig, text: str) -> None:
    rig.plan.with_suffix(".json").write_text(text)
    with pytest.raises(IntegrityError, match=r"int8\.json"):
        rig.backend().load()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sm": "87"}, "sm is '87'"),
        ({"size": 1.5}, "size is 1.5"),
        ({"batch": {"max": "8"}}, "batch.max is '8'"),
        ({"schema": 99}, "has schema 99"),
    ],
)
def test_a_wrong_field_of_a_sidecar_is_named(
    rig: Rig, changes: dict[str, Any], message: str
) -> None:
    path = rig.plan.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(FerEdgeError, match=message):
        rig.backend().load()


def test_a_missing_plan_is_named(rig: Rig) -> None:
    rig.plan.unlink()
    with pytest.raises(UsageError, match="no model file"):
        rig.backend().load()


def test_mapped_memory_needs_a_gpu_that_can(rig: Rig) -> None:
    with pytest.raises(UnavailableError, match="cannot map host memory"):
        options = LaneOptions(mapped=True)
        rig.backend(options=options, gpu=replace(ORIN, maps_host_memory=False)).load()


# What the library refuses


def test_a_null_from_deserialisation_is_an_error_with_the_librarys_lines(rig: Rig) -> None:
    content = b"no plan at all"
    rig.plan.write_bytes(content)
    replace(SIDECAR, sha256=sha256_bytes(content)).write(rig.plan)
    with pytest.raises(UnavailableError, match="magic tag") as caught:
        rig.backend().load()
    assert "fer-edge build" in str(caught.value.fix)
    assert rig.cudart.alive() == {}


def test_a_plan_that_fails_is_an_error(rig: Rig) -> None:
    rig.write(fails=True)
    with pytest.raises(NumericsError, match="failed on a batch of 1"):
        rig.backend().load()
    assert rig.cudart.alive() == {}


def test_another_network_is_refused(rig: Rig) -> None:
    rig.write(classes=8)
    backend = rig.backend()
    backend.classes = 7  # as a bundle of FER2013's classes sets it
    with pytest.raises(UsageError, match="not exported by fer-edge"):
        backend.load()
    rig.write(classes=101)
    with pytest.raises(UsageError, match="not exported by fer-edge"):
        rig.backend().load()


def test_a_plan_of_a_fixed_batch_takes_no_other(rig: Rig) -> None:
    rig.write(replace(SIDECAR, batch={"min": 4, "opt": 4, "max": 4}), batch=[4, 4, 4])
    with rig.backend() as backend:
        assert np.array_equal(backend.infer(IMAGES[:4]), logits_of(IMAGES[:4]))
        with pytest.raises(UsageError, match="batches of 4 only, not 3"):
            backend.infer(IMAGES[:3])


# TensorRT-RTX


def test_rtx_keeps_the_kernels_that_it_compiled(tmp_path: Path, private_cache: Path) -> None:
    rig = Rig(tmp_path)
    rig.trt = fake_tensorrt("1.7.1.116", name="tensorrt_rtx_bindings", streams=rig.cudart)
    rig.write(replace(SIDECAR, package="tensorrt-rtx", tensorrt="1.7.1.116", sm=None))

    def run() -> None:
        backend = TensorRTRTXBackend(
            rig.plan, trt=rig.trt, cuda=CudaBindings(rig.cudart), gpu=replace(ORIN, sm=89)
        )
        with backend:
            assert backend.provider.startswith("TensorRT-RTX 1.7.1.116, sm_89, CUDA graphs")
            assert np.array_equal(backend.infer(IMAGES[:3]), logits_of(IMAGES[:3]))

    run()
    assert "kernels" not in rig.trt.seen
    (kept,) = (private_cache / "tensorrt-rtx").iterdir()
    assert kept.read_bytes() == b"compiled kernels"
    run()
    assert rig.trt.seen["kernels"] == b"compiled kernels"
    assert rig.cudart.alive() == {}


# What is missing, and which plan of a bundle


@pytest.mark.parametrize(
    ("package", "gpu", "cuda", "reason"),
    [
        (True, True, True, None),
        (False, True, True, "TensorRT is not installed (Python package 'tensorrt')"),
        (True, False, True, "no driver"),
        (True, True, False, "neither cuda-bindings nor pycuda"),
        (False, False, False, "TensorRT is not installed (Python package 'tensorrt'); no driver; "),
    ],
)
def test_the_reason_why_it_is_unavailable_names_all_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, package: bool, gpu: bool, cuda: bool, reason: str | None
) -> None:
    def import_tensorrt(flavour: str) -> Any:
        if not package:
            raise UnavailableError("TensorRT is not installed (Python package 'tensorrt')")

    monkeypatch.setattr(backend_module, "import_tensorrt", import_tensorrt)
    monkeypatch.setattr(
        backend_module, "gpu_or_reason", lambda: (ORIN, "") if gpu else (None, "no driver")
    )
    missing = None if cuda else "neither cuda-bindings nor pycuda is installed"
    monkeypatch.setattr(backend_module, "cuda_missing_reason", lambda: missing)
    said = TensorRTBackend.unavailable_reason()
    if reason is None:
        assert said is None
    else:
        assert said is not None
        assert said.startswith(reason)


@pytest.mark.parametrize(("sm", "served"), [(89, True), (90, False)])
def test_rtx_names_a_gpu_that_it_does_not_serve(
    monkeypatch: pytest.MonkeyPatch, sm: int, served: bool
) -> None:
    trt = fake_tensorrt("1.7.1", name="tensorrt_rtx")
    trt.ComputeCapability = type("ComputeCapability", (), {"SM75": 75, "SM89": 89})
    found = replace(ORIN, sm=sm, name="Some GPU")
    monkeypatch.setattr(backend_module, "import_tensorrt", lambda flavour: trt)
    monkeypatch.setattr(backend_module, "gpu_or_reason", lambda: (found, ""))
    monkeypatch.setattr(backend_module, "find_gpu", lambda: found)
    monkeypatch.setattr(backend_module, "cuda_missing_reason", lambda: None)
    wanted = None if served else "TensorRT-RTX 1.7.1 does not support sm_90 (Some GPU)"
    assert TensorRTRTXBackend.unavailable_reason() == wanted


def test_rtx_does_not_serve_sm_75_though_its_enum_has_it(
    monkeypatch: pytest.MonkeyPatch, rtx: Any
) -> None:
    assert hasattr(rtx.ComputeCapability, "SM75")
    found = replace(ORIN, sm=75, name="RTX 2080")
    monkeypatch.setattr(backend_module, "gpu_or_reason", lambda: (found, ""))
    monkeypatch.setattr(backend_module, "find_gpu", lambda: found)
    monkeypatch.setattr(backend_module, "cuda_missing_reason", lambda: None)
    said = "plans of TensorRT-RTX are not for sm_75 (RTX 2080), but sm_80 and later"
    assert TensorRTRTXBackend.unavailable_reason() == said


def test_a_plan_in_a_bundle_names_the_bundle_in_its_fix(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    rig.plan = tmp_path / "engines" / "x.plan"
    rig.plan.parent.mkdir()
    rig.write(replace(SIDECAR, sm=90))
    with pytest.raises(EngineMismatchError) as caught:
        rig.backend().load()
    assert caught.value.fix == f"fer-edge build {tmp_path} --precision int8 --target tensorrt"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Bundle]:
    monkeypatch.setattr(TensorRTBackend, "_here", classmethod(lambda cls: ("10.3.0", 87)))

    def make(*built: tuple[str, int]) -> Bundle:
        plans = []
        for release, sm in built:
            name = f"sm{sm}-trt{release}-int8.plan"
            plans.append(Artifact(name, "plan", "int8", "tensorrt", "0" * 64, 0, None, {}))
            replace(SIDECAR, tensorrt=release, sm=sm).write(tmp_path / name)
        graph = Artifact("model.fp32.onnx", "onnx", "fp32", "", "0" * 64, 0, None, {})
        return Bundle(tmp_path, Manifest("faces", "", "", artifacts=(graph, *plans)))

    return make


def test_the_bundles_plan_for_this_device_is_chosen(bundle: Callable[..., Bundle]) -> None:
    chosen = TensorRTBackend.from_bundle(bundle(("10.13.3", 90), ("10.3.0", 87)), "int8")
    assert chosen.path is not None
    assert chosen.path.name == "sm87-trt10.3.0-int8.plan"


def test_plans_of_other_devices_are_named(bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(EngineMismatchError) as caught:
        TensorRTBackend.from_bundle(bundle(("10.13.3", 90), ("8.6.2", 87)), "int8")
    assert "built with TensorRT 10.13.3 for sm_90" in str(caught.value)
    assert "built with TensorRT 8.6.2 for sm_87" in str(caught.value)
    assert "--precision int8 --target tensorrt" in str(caught.value.fix)


def test_a_bundle_without_plans_names_the_build_command(bundle: Callable[..., Bundle]) -> None:
    with pytest.raises(UsageError, match="no fp16 plan") as caught:
        TensorRTBackend.from_bundle(bundle(("10.3.0", 87)), "fp16")
    assert "--precision fp16 --target tensorrt" in str(caught.value.fix)


def test_versions_name_library_cuda_and_driver(rig: Rig) -> None:
    versions = rig.backend(cuda=None).versions()
    assert versions == {"tensorrt": "10.3.0", "cuda driver": "12.6"}


def test_a_forked_child_is_told_and_frees_nothing(rig: Rig) -> None:
    """CUDA does not survive a fork: the child gets an error, and must not free what is shared."""
    rig.write()
    with rig.backend() as backend:
        logits = backend.infer(IMAGES[:1])
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                told = []
                for call in (lambda: backend.infer(IMAGES[:1]), lambda: rig.backend().load()):
                    try:
                        call()
                    except UnavailableError as error:
                        told.append(f"{error} ({error.fix})")
                before = rig.cudart.alive()
                backend.close()
                told.append(f"freed {before != rig.cudart.alive()}")
                os.write(writer, "\n".join(told).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        first, second, freed = os.read(reader, 1 << 16).decode().splitlines()
        assert "tensorrt does not work in a process that was forked" in first
        assert "get_context('spawn')" in first
        assert second == first
        assert freed == "freed False"
        np.testing.assert_array_equal(backend.infer(IMAGES[:1]), logits)
