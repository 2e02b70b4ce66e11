"""The protocol and its statistics, with a clock of our own: no test here asserts a real time."""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from fer_edge.backends.null import NullBackend
from fer_edge.errors import UsageError
from fer_edge.measure.latency import (
    DIFFERENT_IMAGES,
    LatencyProtocol,
    LatencySamples,
    min_samples,
    preload,
    time_backends,
)

MS = 1_000_000


class FakeClock:
    """Starts at zero; ``log`` receives the name of each engine as it is called."""

    def __init__(self) -> None:
        self.time = 0
        self.slept: list[float] = []
        self.log: list[str] = []

    def now(self) -> int:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += round(seconds * 1e9)


class FakeEngine:
    """Each call takes the next number of nanoseconds in ``cost`` (the last one repeats)."""

    def __init__(
        self,
        clock: FakeClock,
        cost: int | Iterator[int],
        name: str = "engine",
        on_call: Callable[[], None] | None = None,
    ) -> None:
        self.clock = clock
        self.cost = cost
        self.name = name
        self.on_call = on_call
        self.seen: list[np.ndarray] = []

    def infer(self, images: np.ndarray) -> np.ndarray:
        self.clock.time += self.cost if isinstance(self.cost, int) else next(self.cost)
        self.clock.log.append(self.name)
        self.seen.append(images)
        if self.on_call is not None:
            self.on_call()
        return np.zeros((len(images), 7), np.float32)


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, 48, 48), dtype=np.uint8)


def protocol(**changes: float) -> LatencyProtocol:
    values = {"warmup_s": 0.0, "warmup_queries": 0, "measure_s": 0.01, "min_queries": 1}
    return LatencyProtocol(**{**values, "repeats": 2, **changes})  # type: ignore[arg-type]


def samples(*repeats: list[int]) -> LatencySamples:
    return LatencySamples(tuple(np.array(repeat, np.int64) for repeat in repeats))


@pytest.mark.parametrize(("q", "count"), [(90, 64), (95, 130), (99, 662), (99.9, 6636)])
def test_a_percentile_needs_enough_samples(q: float, count: int) -> None:
    assert min_samples(q) == count
    enough = samples([MS] * count, [MS] * count)
    assert enough.percentile_ms(q) == 1.0
    assert samples([MS] * count, [MS] * (count - 1)).percentile_ms(q) is None


@pytest.mark.parametrize("q", [0, 100, -1])
def test_there_is_no_such_percentile(q: float) -> None:
    with pytest.raises(UsageError):
        min_samples(q)


def test_statistics_are_the_median_over_repeats_and_nothing_is_clipped() -> None:
    got = samples([1 * MS, 2 * MS, 900 * MS], [4 * MS] * 3, [3 * MS] * 3)
    assert got.p50s_ms == (2.0, 4.0, 3.0)
    assert got.p50_ms == 3.0
    assert got.spread == (2.0, 4.0)
    # The means are 301, 4 and 3 ms: the outlier counts.
    assert got.images_per_s == pytest.approx(250.0)
    assert got.cv == pytest.approx(np.std([301, 4, 3], ddof=1) / np.mean([301, 4, 3]))
    assert got.unstable


def test_a_percentile_is_a_latency_that_was_observed() -> None:
    values = [k * MS for k in range(1, 1001)]
    got = samples(values, values)
    assert (got.p50_ms, got.percentile_ms(90), got.percentile_ms(99)) == (500.0, 900.0, 990.0)


def test_variation_over_repeats_warns_above_two_and_a_half_percent() -> None:
    assert samples([1000], [1000]).cv == 0
    assert not samples([1000], [1020]).unstable
    assert samples([1000], [1050]).unstable
    assert samples([1000]).cv is None
    assert not samples([1000]).unstable


def test_raw_nanoseconds_survive_json() -> None:
    before = LatencySamples((np.array([3, 1, 2]), np.array([5, 6])), missed=4)
    content = json.loads(json.dumps(before.to_dict(), allow_nan=False))
    assert content["ns"] == [[3, 1, 2], [5, 6]]
    assert content["queries"] == [3, 2]
    assert content["p99_ms"] is None
    after = LatencySamples.from_dict(content)
    assert [repeat.tolist() for repeat in after.ns] == [[3, 1, 2], [5, 6]]
    assert after.missed == 4
    assert after.to_dict() == content


def test_engines_take_turns_and_each_call_is_timed() -> None:
    clock = FakeClock()
    a = FakeEngine(clock, 2 * MS, "a")
    b = FakeEngine(clock, 5 * MS, "b")
    seen: list[tuple[int, int]] = []
    got = time_backends(
        {"a": a, "b": b},
        pictures(8),
        protocol(),
        clock=clock,
        advance=lambda done, total: seen.append((done, total)),
    )
    assert [name for name, _ in itertools.groupby(clock.log)] == ["a", "b", "a", "b"]
    assert [repeat.tolist() for repeat in got["a"].ns] == [[2 * MS] * 5] * 2
    assert [repeat.tolist() for repeat in got["b"].ns] == [[5 * MS] * 2] * 2
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert got["a"].images_per_s == pytest.approx(500)


def test_warm_up_is_not_counted_and_lasts_both_long_and_often_enough() -> None:
    clock = FakeClock()
    by_time = FakeEngine(clock, 1 * MS)
    time_backends({"a": by_time}, pictures(4), protocol(warmup_s=0.02, repeats=1), clock=clock)
    assert len(by_time.seen) == 20 + 10
    by_count = FakeEngine(clock, 1 * MS)
    time_backends({"a": by_count}, pictures(4), protocol(warmup_queries=7, repeats=1), clock=clock)
    assert len(by_count.seen) == 7 + 10


def test_a_repeat_has_its_least_and_its_most_queries() -> None:
    clock = FakeClock()
    least = time_backends(
        {"a": FakeEngine(clock, 10 * MS)}, pictures(4), protocol(min_queries=30), clock=clock
    )
    assert [len(repeat) for repeat in least["a"].ns] == [30, 30]
    most = time_backends(
        {"a": FakeEngine(clock, 10)}, pictures(4), protocol(max_queries=50), clock=clock
    )
    assert [len(repeat) for repeat in most["a"].ns] == [50, 50]


def test_queries_are_different_images_one_at_a_time_in_seeded_order() -> None:
    clock = FakeClock()
    engine, again = FakeEngine(clock, MS), FakeEngine(clock, MS)
    images = pictures(10)
    for each in (engine, again):
        time_backends({"a": each}, images, protocol(repeats=1), clock=clock)
    assert {image.shape for image in engine.seen} == {(1, 1, 48, 48)}
    sent = [image.tobytes() for image in engine.seen]
    assert sorted(sent) == sorted(image.tobytes() for image in images)
    assert sent == [image.tobytes() for image in again.seen]
    assert sent != [image.tobytes() for image in images]


def test_preload_drops_repeated_images_and_stops_at_its_limit() -> None:
    few = np.concatenate([pictures(5), pictures(5)])
    assert len(preload(few, 0)) == 5
    many = preload(pictures(DIFFERENT_IMAGES + 50), 0)
    assert len({image.tobytes() for image in many}) == len(many) == DIFFERENT_IMAGES
    assert all(image.flags.c_contiguous for image in many)
    with pytest.raises(UsageError, match="no images"):
        preload(pictures(0), 0)


def test_pace_waits_for_the_next_frame() -> None:
    clock = FakeClock()
    engine = FakeEngine(clock, 3 * MS)
    got = time_backends(
        {"a": engine}, pictures(4), protocol(repeats=1, pace_hz=100, min_queries=5), clock=clock
    )
    assert [repeat.tolist() for repeat in got["a"].ns] == [[3 * MS] * 5]
    assert clock.slept == pytest.approx([0.01, 0.007, 0.007, 0.007, 0.007])
    assert got["a"].missed == 0


def test_an_engine_slower_than_the_camera_misses_frames() -> None:
    clock = FakeClock()
    engine = FakeEngine(clock, 25 * MS)
    got = time_backends(
        {"a": engine}, pictures(4), protocol(repeats=1, pace_hz=100, min_queries=4), clock=clock
    )
    # Frames come at 10, 20, 30 ms ...: answered are those of 10, 30, 60 and 80 ms.
    assert got["a"].missed == 4
    assert len(clock.slept) == 1


def test_the_garbage_collector_rests_while_measuring_and_is_put_back() -> None:
    clock = FakeClock()
    states: list[bool] = []
    engine = FakeEngine(clock, MS, on_call=lambda: states.append(gc.isenabled()))
    time_backends({"a": engine}, pictures(4), protocol(), clock=clock)
    assert not any(states)
    assert gc.isenabled()

    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        time_backends(
            {"a": FakeEngine(clock, MS, on_call=fail)}, pictures(4), protocol(), clock=clock
        )
    assert gc.isenabled()


def test_the_protocol_describes_itself() -> None:
    full, quick = LatencyProtocol(), LatencyProtocol.for_quick()
    assert "QUICK" in quick.describe()
    assert "QUICK" not in full.describe()
    paced = LatencyProtocol(pace_hz=30)
    assert "30 Hz" in paced.describe()
    assert full.to_dict()["scope"] == "e2e"
    assert (full.warmup_s, full.warmup_queries) == (1.0, 100)
    assert (full.measure_s, full.min_queries, full.repeats) == (10.0, 1024, 5)
    # p99 is printed even in a hurry, and p95 at a camera's rate.
    assert quick.min_queries >= min_samples(99)
    assert LatencyProtocol.for_quick(30).min_queries >= min_samples(95)
    assert full.estimated_seconds(8) == 440
    assert paced.estimated_seconds(1) > full.estimated_seconds(1)


def test_a_protocol_that_measures_nothing_is_refused() -> None:
    for wrong in ({"repeats": 0}, {"min_queries": 0}, {"pace_hz": 0.0}):
        with pytest.raises(UsageError):
            LatencyProtocol(**wrong)  # type: ignore[arg-type]


def test_the_null_backend_runs_on_the_real_clock() -> None:
    got = time_backends({"null": NullBackend(None)}, pictures(4), protocol(min_queries=200))
    assert all(len(repeat) >= 200 and (repeat > 0).all() for repeat in got["null"].ns)
