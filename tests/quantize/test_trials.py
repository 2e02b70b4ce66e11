"""``auto``: all methods are tried, and the one that loses least is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures_progress import Recorder

from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import build
from fer_edge.bundle import Bundle
from fer_edge.data import CalibrationSet, FerDataset
from fer_edge.quantize.ranges import ranges_by_method, ranges_from_onnx
from fer_edge.quantize.thresholds import METHODS
from fer_edge.quantize.trials import best_method, compare


def test_the_best_is_first_and_a_spoiled_one_last(
    fp32: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    ranges = ranges_by_method(fp32, faces, calibration, cache=False)
    values = {name: (low, 50 * high) for name, (low, high) in ranges["minmax"].values.items()}
    ranges["spoiled"] = replace(ranges["minmax"], values=values)
    scores = best_method(fp32, ranges, "onnxruntime", faces.images[:48])
    assert {score.name for score in scores} == {*METHODS, "spoiled"}
    assert scores[-1].name == "spoiled"
    assert scores == sorted(scores, key=lambda score: score.kl)
    assert scores[0].kl > 0


def test_methods_together_are_the_methods_alone(
    fp32: Path,
    faces: FerDataset,
    calibration: CalibrationSet,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path))
    together = ranges_by_method(fp32, faces, calibration)
    for method in METHODS:
        alone = ranges_from_onnx(fp32, faces, calibration, method=method, cache=False)
        assert alone.values == together[method].values
        assert ranges_from_onnx(fp32, faces, calibration, method=method).cached


def test_a_build_takes_it_and_the_manifest_says_why(
    weights: Path, faces: FerDataset, tmp_path: Path
) -> None:
    recorder = Recorder()
    report = build(
        weights,
        data=faces,
        output=tmp_path / "b",
        target="onnxruntime",
        int8=Int8Options("stratified-128", "auto"),
        gate=GateOptions(verify=False),
        reporter=recorder,
    )
    calibration = Bundle.open(tmp_path / "b").manifest.calibration
    assert calibration is not None
    compared = calibration["compared"]
    assert compared[0]["method"] == calibration["method"]
    assert {each["method"] for each in compared} == set(METHODS)
    assert report.ranges is not None
    assert report.ranges.method == calibration["method"]
    assert any("loses least" in text for text in recorder.notes)


def test_compare() -> None:
    logits = np.array([[1.0, 2, 3], [3, 2, 1]])
    same = compare("x", logits, logits + 5)
    assert (same.kl, same.flips) == (pytest.approx(0.0, abs=1e-12), 0.0)
    other = compare("x", logits, logits[:, ::-1])
    assert other.flips == 1.0
    p = np.exp(logits[0]) / np.exp(logits[0]).sum()
    assert other.kl == pytest.approx((p * np.log(p / p[::-1])).sum())
