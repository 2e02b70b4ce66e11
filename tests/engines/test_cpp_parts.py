"""The runner's parts against Python's, and damaged files under the sanitizers."""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from fixtures_bundle import TinyNet, golden_bytes, golden_images
from fixtures_hypothesis import SHARED_FIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.backends import selftest
from fer_edge.backends.selftest import judge_self_test
from fer_edge.cpu import cpu_features, fitting_weights
from fer_edge.errors import NumericsError
from fer_edge.measure.latency import LatencySamples, min_samples
from fer_edge.preprocessing import Preprocessing

if TYPE_CHECKING:
    from conftest import Runner

SOURCES = Path(__file__).resolve().parents[2] / "engines" / "cpp" / "src"

# A fixture that builds a program is the same for every example; a process takes its time.
slow = settings(max_examples=20, suppress_health_check=SHARED_FIXTURE)


@pytest.mark.parametrize("size", [0, 1, 3, 55, 56, 63, 64, 65, 119, 120, 128, 100_000])
def test_sha256(runner: Runner, tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert runner.probe("sha256", tmp_path / "file").stdout.decode().strip() == (
        hashlib.sha256(content).hexdigest()
    )


@pytest.mark.parametrize(
    "text",
    [
        "processor\t: 0\nflags\t\t: fpu avx avx2 sse4a\n",
        "processor\t: 0\nflags\t\t: fpu avx2 avx512_vnni\n",
        "processor\t: 0\nflags\t\t: avx2 avx_vnni\n",
        "processor\t: 0\nflags\t\t: avx2 amx_int8\n",
        "processor\t: 0\nFeatures\t: fp asimd\n",
        "processor\t: 0\nvmx flags\t: avx512_vnni\nflags\t\t: avx2\n",
        "nothing\n",
    ],
)
def test_the_weights_that_fit_a_cpu(runner: Runner, tmp_path: Path, text: str) -> None:
    (tmp_path / "cpuinfo").write_text(text)
    expected, _ = fitting_weights(cpu_features(tmp_path / "cpuinfo"))
    assert runner.probe("weights", tmp_path / "cpuinfo").stdout.decode().strip() == expected


@pytest.mark.parametrize("percent", [75, 90, 95, 99, 99.9])
def test_min_samples(runner: Runner, percent: float) -> None:
    assert int(runner.probe("min-samples", percent).stdout) == min_samples(percent)


@slow
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=300), st.sampled_from([50, 90, 95]))
def test_percentiles(runner: Runner, ns: list[int], percent: int) -> None:
    said = runner.probe("percentile", percent, stdin=" ".join(map(str, ns))).stdout.decode().strip()
    samples = LatencySamples((np.array(ns, np.int64),))
    expected = samples.p50_ms if percent == 50 else samples.percentile_ms(percent)
    assert said == "n/a" if expected is None else float(said) == expected


@slow
@given(st.floats(0, 1, allow_subnormal=False), st.floats(0.05, 1))
def test_pixels_are_normalised_to_the_bit(runner: Runner, mean: float, std: float) -> None:
    image = np.tile(np.arange(256, dtype=np.uint8), 9)
    with tempfile.NamedTemporaryFile(suffix=".raw") as file:
        Path(file.name).write_bytes(image.tobytes())
        out = runner.probe("normalise", repr(mean), repr(std), file.name).stdout
    expected = Preprocessing(mean, std).normalise(image)
    assert np.array_equal(np.frombuffer(out, np.float32), expected)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(runner: Runner, tmp_path: Path, save: object) -> None:
    images, logits = golden_images(5), np.linspace(-3, 3, 35, dtype=np.float32).reshape(5, 7)
    path = tmp_path / "golden.npz"
    save(path, images=images, logits=logits)  # type: ignore[operator]
    result = runner.probe("npz", path)
    lines = dict(line.split(" ", 1) for line in result.stdout.decode().splitlines())
    digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in (images, logits)]
    assert lines == {
        "images": f"|u1 5 1 48 48 {digests[0]}",
        "logits": f"<f4 5 7 {digests[1]}",
    }


def test_an_npz_that_numpy_would_not_write_so_is_refused(runner: Runner, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for arrays in (
        {"images": np.asfortranarray(np.ones((3, 4), np.float32))},
        {"images": np.ones(3, np.float64)},
        {"images": np.array([{}], dtype=object)},
    ):
        np.savez(path, **arrays)  # type: ignore[arg-type]
        assert runner.probe("npz", path).returncode == 6


def _golden() -> bytes:
    return golden_bytes(TinyNet())


def _compressed() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, images=golden_images(2), logits=np.ones((2, 7), np.float32))
    return buffer.getvalue()


@slow
@given(st.sampled_from([_golden(), _compressed()]), st.data())
def test_a_damaged_npz_never_crashes(runner: Runner, content: bytes, data: st.DataObject) -> None:
    damaged = bytearray(content)
    # Structure, not pixels: the headers at the start and the directory at the end.
    places = st.integers(0, 200) | st.integers(len(content) - 200, len(content) - 1)
    for place in data.draw(st.lists(places, max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged)) | st.just(len(damaged))) :]
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(damaged)
        result = runner.probe("npz", file.name)
    assert result.returncode in {0, 6}, result.stderr.decode()


@slow
@given(
    st.binary(max_size=40)
    | st.builds(
        lambda header, pixels: b"P5" + header + bytes(pixels),
        st.text("0123456789 \n#a", max_size=20).map(str.encode),
        st.sampled_from([0, 2303, 2304]),
    )
)
def test_a_damaged_pgm_never_crashes(runner: Runner, content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        result = runner.probe("pgm", file.name)
    assert result.returncode in {0, 2}, result.stderr.decode()


def test_the_self_tests_limits_are_pythons() -> None:
    source = (SOURCES / "self_test.cpp").read_text(encoding="utf-8")
    limits = dict(re.findall(r"constexpr double (k\w+) = ([0-9.e-]+);", source))
    assert {name: float(value) for name, value in limits.items()} == {
        "kFp32MaxAbs": selftest.FP32_MAX_ABS,
        "kFp16TypicalAbs": selftest.FP16_TYPICAL_ABS,
        "kInt8TypicalShare": selftest.INT8_TYPICAL_SHARE,
        "kCorrelation": selftest.INT8_CORRELATION,
        "kAgreement": selftest.INT8_AGREEMENT,
    }


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("noise", [0, 1e-5, 5e-4, 8e-3, 0.1, 0.6, 5.0])
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_self_test_judges_as_python_does(
    runner: Runner, tmp_path: Path, precision: str, noise: float, size: float
) -> None:
    random = np.random.default_rng(3)
    reference = random.normal(0, size, (32, 7)).astype(np.float32)
    logits = (reference + random.normal(0, noise * size, (32, 7))).astype(np.float32)
    path = tmp_path / "logits.npz"
    np.savez(path, logits=logits, reference=reference)
    result = runner.probe("judge", precision, path)
    engine = SimpleNamespace(name="engine", precision=precision, path="x")
    try:
        expected = judge_self_test(logits, reference, engine)  # type: ignore[arg-type]
    except NumericsError:
        assert result.returncode == 4, result
    else:
        said = [float(word) for word in result.stdout.split()]
        wanted = [
            expected.max_abs,
            expected.typical_abs,
            expected.spread,
            expected.correlation,
            expected.sure_agreement,
        ]
        assert said == pytest.approx(wanted, rel=1e-5, abs=1e-9)
