"""Calibration: three methods that differ, and a cache that is never believed without proof."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fixtures_graphs import saved
from fixtures_progress import Recorder

from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.graph import load_model
from fer_edge.data import CalibrationRecipe, CalibrationSet, FerDataset, select_calibration
from fer_edge.errors import UsageError
from fer_edge.quantize.ranges import calibration_tensors, ranges_from_onnx
from fer_edge.quantize.thresholds import entropy_threshold, percentile_threshold


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "calibration"


def histogram(values: np.ndarray, bins: int) -> tuple[np.ndarray, float]:
    largest = float(np.abs(values).max())
    return np.histogram(np.abs(values), bins, (0, largest))[0], largest / bins


def test_minmax_is_the_least_and_the_greatest_value(
    fp32: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    import onnx
    import onnxruntime as ort

    found = ranges_from_onnx(fp32, faces, calibration, method="minmax", cache=False)
    model = load_model(fp32)
    name = "stages.1/Relu"
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (values,) = session.run([name], {"images": calibration.images(faces)[:, None]})
    assert found.of(name) == pytest.approx((0.0, float(values.max())), rel=1e-5)
    assert found.of("Sub")[0] < 0 < found.of("Sub")[1]  # the normalised pixels
    with pytest.raises(UsageError, match="no range for the tensor 'other'"):
        found.of("other")


def test_results_that_an_activation_swallows_are_not_measured(fp32: Path) -> None:
    tensors = calibration_tensors(load_model(fp32))
    assert "stages.0.conv1/Conv" not in tensors  # only ReLU reads it
    assert "stages.0.conv2/Conv" in tensors  # the Add reads it
    assert "stages.0/Add" not in tensors
    assert "logits" not in tensors
    assert "Cast" not in tensors


def test_the_methods_differ_and_never_leave_what_was_seen(
    fp32: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    found = {
        method: ranges_from_onnx(fp32, faces, calibration, method=method, cache=False).values
        for method in ("minmax", "entropy", "percentile")
    }
    for method in ("entropy", "percentile"):
        assert list(found[method]) == list(found["minmax"])
        clipped = 0
        for name, (low, high) in found[method].items():
            least, greatest = found["minmax"][name]
            assert least <= low <= 0 <= high <= greatest
            clipped += (low, high) != (least, greatest)
        assert clipped >= len(found["minmax"]) // 2
    assert found["entropy"] != found["percentile"]


def test_onnxruntimes_entropy_at_its_default_bins_is_minmax_and_ours_is_not(
    fp32: Path, faces: FerDataset, calibration: CalibrationSet, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime.quantization")
    from onnxruntime.quantization.calibrate import (
        CalibrationDataReader,
        CalibrationMethod,
        create_calibrator,
    )

    images = calibration.images(faces)[:, None]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([{"images": images}])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    theirs = {}
    for method in (CalibrationMethod.MinMax, CalibrationMethod.Entropy):
        calibrator = create_calibrator(
            fp32, None, str(tmp_path / f"{method.name}.onnx"), calibrate_method=method
        )
        calibrator.collect_data(Reader())
        theirs[method] = calibrator.compute_data().data
        # Its session holds the augmented file open.
        del calibrator
    ours = ranges_from_onnx(fp32, faces, calibration, method="entropy", cache=False)
    same = other = 0
    for name in ours.values:
        if not name.endswith(("Relu", "Relu_1")):
            continue
        entropy, minmax = (
            float(np.ravel(theirs[method][name].range_value[1])[0])
            for method in (CalibrationMethod.Entropy, CalibrationMethod.MinMax)
        )
        same += bool(np.isclose(entropy, minmax, rtol=1e-3))
        other += not np.isclose(ours.of(name)[1], minmax, rtol=1e-3)
    assert same >= 5
    assert other >= 4


def test_entropy_needs_more_bins_than_levels() -> None:
    values = np.random.default_rng(0).laplace(size=100_000)
    few, width = histogram(values, 128)
    assert entropy_threshold(few, width) == pytest.approx(np.abs(values).max())
    many, width = histogram(values, 2048)
    threshold = entropy_threshold(many, width)
    assert threshold < 0.9 * np.abs(values).max()
    assert (np.abs(values) > threshold).mean() < 0.01


def test_entropy_ignores_lone_outliers_and_relus_zeros() -> None:
    random = np.random.default_rng(0)
    values = np.maximum(random.normal(size=200_000), 0)
    quiet, width = histogram(values, 2048)
    calm = entropy_threshold(quiet, width)
    wild, width = histogram(np.append(values, 40.0), 2048)
    assert entropy_threshold(wild, width) < 8
    assert calm == pytest.approx(values.max(), rel=0.35)


def test_percentile() -> None:
    values = np.arange(1, 10_001) / 10_000
    counts, width = histogram(values, 2000)
    assert percentile_threshold(counts, width, 99.0) == pytest.approx(0.99, abs=2 * width)
    assert percentile_threshold(counts, width, 100.0) == pytest.approx(1.0)
    assert percentile_threshold(np.zeros(8), 0.1, 99.0) == 0.0
    with pytest.raises(UsageError, match="percentile"):
        percentile_threshold(counts, width, 0)


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_the_cache_gives_the_same_and_says_so(
    method: str, cache: Path, fp32: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    first = ranges_from_onnx(fp32, faces, calibration, method=method)
    again = ranges_from_onnx(fp32, faces, calibration, method=method)
    assert (first.cached, again.cached) == (False, True)
    assert first.values == again.values
    assert first.key == again.key
    assert len(list(cache.glob("*.json"))) == 1


def test_whatever_differs_is_measured_anew(
    cache: Path,
    weights: Path,
    fp32: Path,
    faces: FerDataset,
    calibration: CalibrationSet,
    tmp_path: Path,
) -> None:
    ranges_from_onnx(fp32, faces, calibration)
    other_graph = tmp_path / "other.onnx"
    model = load_model(fp32)
    model.doc_string = "one byte more"
    saved(model, other_graph)
    recipe = CalibrationRecipe("tests", count=65)
    recalibrated = replace(
        calibration, recipe=msgspec.structs.replace(calibration.recipe, percentile=99.0)
    )
    pixels = tmp_path / "f32.onnx"
    onnx_from_weights(weights, pixels, input="f32")
    for src, chosen, method in (
        (other_graph, calibration, "minmax"),
        (fp32, select_calibration(faces, recipe), "minmax"),
        (fp32, calibration, "entropy"),
        (fp32, calibration, "percentile"),
        (fp32, recalibrated, "percentile"),
        (pixels, calibration, "minmax"),
    ):
        assert not ranges_from_onnx(src, faces, chosen, method=method).cached
    assert len(list(cache.glob("*.json"))) == 7


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "list", "number"])
def test_a_damaged_entry_is_found_out_and_replaced(
    harm: str, cache: Path, fp32: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    honest = ranges_from_onnx(fp32, faces, calibration)
    (entry,) = cache.glob("*.json")
    text = entry.read_text()
    content = json.loads(text)
    name = next(iter(content["ranges"]))
    content["ranges"][name][1] *= 2
    entry.write_text(
        {
            "flip": text.replace("minmax", "minmay", 1),
            "cut": text[: len(text) // 2],
            "empty": "",
            "list": "[]",
            "number": json.dumps(content),
        }[harm]
    )
    found = ranges_from_onnx(fp32, faces, calibration)
    assert not found.cached
    assert "damaged" in found.note
    assert found.values == honest.values
    assert ranges_from_onnx(fp32, faces, calibration).cached


def test_an_entry_of_another_graph_under_our_name_is_not_believed(
    cache: Path, fp32: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    ranges_from_onnx(fp32, faces, calibration, method="minmax")
    ranges_from_onnx(fp32, faces, calibration, method="entropy")
    first, second = sorted(cache.glob("*.json"))
    second.write_bytes(first.read_bytes())
    notes = [
        ranges_from_onnx(fp32, faces, calibration, method=method).note
        for method in ("minmax", "entropy")
    ]
    assert sorted("belongs to another" in note for note in notes) == [False, True]


def test_unknown_method_and_progress(
    fp32: Path, faces: FerDataset, calibration: CalibrationSet
) -> None:
    with pytest.raises(UsageError, match="no calibration method 'mse'"):
        ranges_from_onnx(fp32, faces, calibration, method="mse")
    recorder = Recorder()
    ranges_from_onnx(
        fp32,
        faces,
        calibration,
        method="entropy",
        cache=False,
        reporter=recorder,
    )
    assert recorder.counts("calibrating")[-1] == (128, 128)  # two passes over 64 images
