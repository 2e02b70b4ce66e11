"""The times of the conversions, on the compact network with random weights.

::

    OMP_NUM_THREADS=1 pytest bench/test_convert.py

Result is: seconds per step. ``build`` is ``fer-edge build --precision int8 --no-verify`` without
the start of Python and the reading of the data, with an empty calibration cache.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fer_edge.build.options import GateOptions
from fer_edge.build.pipeline import build
from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.fp16 import fp16_from_onnx
from fer_edge.data import CalibrationSet, FerDataset, load, select_calibration
from fer_edge.data.calibration import CalibrationRecipe
from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.quantize.int8 import int8_from_onnx
from fer_edge.quantize.placement import PLACEMENTS
from fer_edge.quantize.ranges import Ranges, ranges_from_onnx
from fer_edge.quantize.thresholds import METHODS
from fer_edge.quantize.trials import rank_layers


@pytest.fixture(scope="module")
def faces() -> FerDataset:
    return load("synthetic:1400")


@pytest.fixture(scope="module")
def calibration(faces: FerDataset) -> CalibrationSet:
    return select_calibration(faces, CalibrationRecipe("bench", count=512))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = ModelSpec("compact")
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(path, build_model(spec), spec, Preprocessing())
    return path


@pytest.fixture(scope="module")
def fp32(weights: Path) -> Path:
    path = weights.with_name("model.fp32.onnx")
    onnx_from_weights(weights, path)
    return path


@pytest.fixture(scope="module")
def ranges(fp32: Path, faces: FerDataset, calibration: CalibrationSet) -> Ranges:
    return ranges_from_onnx(fp32, faces, calibration, cache=False)


def test_export(benchmark: BenchmarkFixture, weights: Path, tmp_path: Path) -> None:
    benchmark.pedantic(onnx_from_weights, (weights, tmp_path / "x.onnx"), rounds=3, warmup_rounds=1)


def test_fp16(benchmark: BenchmarkFixture, fp32: Path, tmp_path: Path) -> None:
    benchmark.pedantic(fp16_from_onnx, (fp32, tmp_path / "x.onnx"), rounds=3, warmup_rounds=1)


@pytest.mark.parametrize("method", METHODS)
def test_calibrate(
    method: str,
    benchmark: BenchmarkFixture,
    fp32: Path,
    faces: FerDataset,
    calibration: CalibrationSet,
) -> None:
    benchmark.extra_info["images"] = len(calibration)
    benchmark.pedantic(
        ranges_from_onnx,
        (fp32, faces, calibration),
        {"method": method, "cache": False},
        rounds=3,
    )


@pytest.mark.parametrize("target", PLACEMENTS)
def test_quantise(
    target: str, benchmark: BenchmarkFixture, fp32: Path, ranges: Ranges, tmp_path: Path
) -> None:
    benchmark.pedantic(
        int8_from_onnx, (fp32, tmp_path / "x.onnx", ranges, target), rounds=3, warmup_rounds=1
    )


def test_rank_layers(
    benchmark: BenchmarkFixture, fp32: Path, ranges: Ranges, faces: FerDataset
) -> None:
    benchmark.pedantic(rank_layers, (fp32, ranges, "onnxruntime", faces.images[:128]), rounds=1)


def test_build(
    benchmark: BenchmarkFixture,
    weights: Path,
    faces: FerDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = iter(range(100))

    def whole() -> None:
        number = next(numbers)
        monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / f"cache{number}"))
        build(
            weights,
            data=faces,
            output=tmp_path / f"bundle{number}",
            target="onnxruntime",
            gate=GateOptions(verify=False),
        )

    benchmark.pedantic(whole, rounds=3)
