"""Throughput with engines of set times, and with real ones; memory and layers of real ones."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.backends import backend_from_bundle
from fer_edge.backends.null import NullBackend
from fer_edge.bundle import Bundle
from fer_edge.errors import NumericsError, UnavailableError, UsageError
from fer_edge.measure.layers import layer_times
from fer_edge.measure.throughput import (
    ThroughputProtocol,
    measure_throughput,
    peak_memory,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 48, 48), np.uint8)


class Clock:
    """A time for each thread, which only its engine moves."""

    def __init__(self) -> None:
        self.ns: dict[int, int] = {}

    def now(self) -> int:
        return self.ns.setdefault(threading.get_ident(), 0)

    def sleep(self, seconds: float) -> None:
        raise AssertionError("a throughput run never sleeps")


class Steps(NullBackend):
    """1 ms a batch, and 0.25 ms an image."""

    clock: Clock
    sizes: list[int]

    def infer(self, images: np.ndarray) -> np.ndarray:
        thread = threading.get_ident()
        self.clock.ns[thread] = self.clock.now() + 1_000_000 + 250_000 * len(images)
        self.sizes.append(len(images))
        return np.zeros((len(images), 7), np.float32)


def engine(clock: Clock, sizes: list[int]) -> Any:
    def make() -> Steps:
        made = Steps(None)
        made.clock, made.sizes = clock, sizes
        return made

    return make


def test_the_numbers_are_those_of_the_engine() -> None:
    clock, sizes = Clock(), list[int]()
    protocol = ThroughputProtocol(batches=(1, 4), streams=(1, 3), window_s=2.0, warmup_s=0.1)
    rows = measure_throughput(engine(clock, sizes), IMAGES, protocol, clock=clock)
    assert [(row.batch, row.streams) for row in rows] == [(1, 1), (4, 1), (1, 3), (4, 3)]
    assert set(sizes) == {1, 4}
    one, four, one_by_3, four_by_3 = rows
    # A batch of 1 takes 1.25 ms, one of 4 takes 2 ms.
    assert one.images_per_s == pytest.approx(800)
    assert four.images_per_s == pytest.approx(2000)
    assert (one.p50_ms, four.p50_ms) == (pytest.approx(1.25), pytest.approx(2.0))
    assert one.queries == 1600
    assert one.p99_ms == pytest.approx(1.25)
    # Streams of this engine do not slow each other down.
    assert one_by_3.images_per_s == pytest.approx(2400)
    assert four_by_3.images_per_s == pytest.approx(6000)
    assert four_by_3.queries == 3 * four.queries


def test_every_stream_has_an_engine_of_its_own_and_all_are_closed() -> None:
    made: list[Any] = []

    class Counted(Steps):
        def infer(self, images: np.ndarray) -> np.ndarray:
            self.threads.add(threading.get_ident())
            time.sleep(0.001)
            return np.zeros((len(images), 7), np.float32)

        def close(self) -> None:
            self.closed = True

    def make() -> Counted:
        made.append(Counted(None))
        made[-1].threads, made[-1].closed = set(), False
        return made[-1]

    protocol = ThroughputProtocol(batches=(1,), streams=(3,), window_s=0.02, warmup_s=0.0)
    (row,) = measure_throughput(make, IMAGES, protocol)
    assert row.streams == 3
    assert [len(each.threads) for each in made] == [1, 1, 1]
    assert len(set().union(*(each.threads for each in made))) == 3
    assert all(each.closed for each in made)


def test_an_error_in_one_stream_is_raised_and_hangs_nothing() -> None:
    count = iter(range(10**6))

    class Fails(Steps):
        def infer(self, images: np.ndarray) -> np.ndarray:
            if next(count) == 5:
                raise NumericsError("the engine failed")
            return np.zeros((len(images), 7), np.float32)

    protocol = ThroughputProtocol(batches=(2,), streams=(2,), window_s=30.0, warmup_s=0.05)
    with pytest.raises(NumericsError, match="the engine failed"):
        measure_throughput(lambda: Fails(None), IMAGES, protocol)


@pytest.mark.parametrize(
    "options", [{"batches": ()}, {"batches": (0,)}, {"streams": (0,)}, {"window_s": 0}]
)
def test_an_impossible_protocol_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ThroughputProtocol(**options)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_real_engines_run_in_streams(tiny_bundle: Bundle, backend: str) -> None:
    pytest.importorskip(backend)
    protocol = ThroughputProtocol(batches=(1, 8), streams=(1, 2), window_s=0.05, warmup_s=0.0)
    rows = measure_throughput(
        lambda: backend_from_bundle(tiny_bundle, backend, "fp32"), IMAGES, protocol
    )
    assert len(rows) == 4
    assert all(row.images_per_s > 0 and row.queries >= row.streams for row in rows)


def test_memory_is_that_of_a_process_of_its_own(tiny_bundle: Bundle) -> None:
    memory = peak_memory(tiny_bundle.path, "onnxruntime", "fp32", batch=8)
    assert memory.host_mib > memory.engine_mib > 1
    with pytest.raises(UnavailableError, match="is not known"):
        peak_memory(tiny_bundle.path / "gone", "onnxruntime", "fp32")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_layers_have_shares_that_add_up(
    tiny_bundle: Bundle, backend: str, precision: str, tmp_path: Path, monkeypatch: Any
) -> None:
    pytest.importorskip(backend)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    engine = backend_from_bundle(tiny_bundle, backend, precision)
    rows = layer_times(engine, IMAGES, queries=20)
    assert len(rows) >= 3
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert [row.share for row in rows] == sorted((row.share for row in rows), reverse=True)
    assert any("conv" in f"{row.layer} {row.kind}".lower() for row in rows)
    assert list(here.iterdir()) == [], "a profile is left in the folder"


def test_a_backend_without_a_profile_says_so() -> None:
    with pytest.raises(UsageError, match="null has no profile") as caught:
        layer_times(NullBackend(None), IMAGES)
    assert "onnxruntime, openvino" in str(caught.value.fix)
