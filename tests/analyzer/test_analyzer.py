"""A photograph to answers: one batch per picture, problems said, thousands of files in a stream."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_bundle import golden_images
from fixtures_detector import FakeDetector, photo_of
from PIL import Image

import fer_edge
from fer_edge import Classifier, FaceAnalyzer
from fer_edge.bundle import Bundle
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.faces import detect

FACES = golden_images(4)[:, 0]
CORNERS = [(10, 20), (100, 30), (200, 120)]


@pytest.fixture
def classifier(tiny_bundle: Bundle) -> Iterator[Classifier]:
    with Classifier(tiny_bundle) as made:
        yield made


def seen_by(photo: np.ndarray, corner: tuple[int, int]) -> np.ndarray:
    x, y = corner
    gray = np.asarray(Image.fromarray(photo).convert("L"))
    return gray[y : y + 48, x : x + 48]


def test_faces_are_classified_in_one_batch(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = photo_of(FACES, CORNERS)
    batches: list[int] = []
    infer = classifier._backend.infer
    monkeypatch.setattr(
        classifier._backend, "infer", lambda images: batches.append(len(images)) or infer(images)
    )
    answer = FaceAnalyzer(classifier, detector=FakeDetector())(photo)
    assert batches == [3]
    assert [face.box for face in answer.faces] == [(x, y, x + 48, y + 48) for x, y in CORNERS]
    assert [face.score for face in answer.faces] == sorted(
        (face.score or 0 for face in answer.faces), reverse=True
    )
    wanted = classifier.predict_batch(seen_by(photo, corner) for corner in CORNERS)
    for face, prediction in zip(answer.faces, wanted, strict=True):
        assert face.problem is None
        assert face.prediction is not None
        assert face.label == prediction.label
        assert face.prediction.probabilities == pytest.approx(prediction.probabilities, abs=0.02)


def test_every_form_of_a_picture_has_one_answer(classifier: Classifier, tmp_path: Path) -> None:
    photo = photo_of(FACES, CORNERS)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    content = (tmp_path / "photo.png").read_bytes()
    analyze = FaceAnalyzer(classifier, detector=FakeDetector())
    wanted = [face.label for face in analyze(photo).faces]
    forms: list[Any] = [
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        content,
        io.BytesIO(content),
        Image.fromarray(photo),
    ]
    for form in forms:
        assert [face.label for face in analyze(form).faces] == wanted
    with (tmp_path / "photo.png").open("rb") as file:
        assert [face.label for face in analyze(file).faces] == wanted
    frame = np.ascontiguousarray(photo[:, :, ::-1])
    assert [face.label for face in analyze(frame, bgr=True).faces] == wanted


def test_a_crop_is_one_face_without_asking(classifier: Classifier, tmp_path: Path) -> None:
    finder = FakeDetector()
    analyze = FaceAnalyzer(classifier, detector=finder)
    for crop in (FACES[0], np.dstack([FACES[0]] * 3)):
        (face,) = analyze(crop).faces
        assert face.box is None
        assert face.prediction is not None
        assert face.prediction.probabilities == classifier.predict(crop).probabilities
    assert finder.calls == 0
    whole = FaceAnalyzer(classifier, detector="whole")
    photo = photo_of(FACES, CORNERS)
    (face,) = whole(photo).faces
    assert face.prediction is not None
    assert face.prediction.probabilities == classifier.predict(photo).probabilities


def test_no_face_is_an_answer(classifier: Classifier) -> None:
    analyze = FaceAnalyzer(classifier, detector=FakeDetector())
    assert analyze(np.zeros((90, 90), np.uint8)).faces == ()


def test_problems_are_said_and_not_guessed_at(classifier: Classifier) -> None:
    photo = photo_of(FACES, [(100, 30), (270, 120)])
    answer = FaceAnalyzer(classifier, detector=FakeDetector())(photo)
    assert [face.problem for face in answer.faces] == [None, "cut by the border"]
    assert [face.label is None for face in answer.faces] == [False, True]
    every = FaceAnalyzer(classifier, detector=FakeDetector(), every_face=True)(photo)
    assert [face.problem for face in every.faces] == [None, "cut by the border"]
    assert all(face.label for face in every.faces)


def test_boxes_of_ones_own_are_taken_as_they_are(classifier: Classifier) -> None:
    photo = photo_of(FACES, CORNERS)
    finder = FakeDetector()
    analyze = FaceAnalyzer(classifier, detector=finder)
    boxes = [(10, 20, 58, 68), (100.0, 30.0, 148.0, 78.0)]
    answer = analyze(photo, boxes=boxes)
    assert finder.calls == 0
    wanted = classifier.predict_batch(seen_by(photo, corner) for corner in CORNERS[:2])
    assert [face.prediction and face.prediction.probabilities for face in answer.faces] == [
        prediction.probabilities for prediction in wanted
    ]
    assert analyze(photo, boxes=[]).faces == ()
    for bad in ([(1, 2, 3)], [("a", 1, 2, 3)], [None], [(900, 900, 950, 950)], [(5, 5, 5, 5)]):
        with pytest.raises(UsageError, match="the array"):
            analyze(photo, boxes=bad)  # type: ignore[arg-type]


def test_a_stream_keeps_the_order_and_goes_on_after_a_bad_file(
    classifier: Classifier, tmp_path: Path
) -> None:
    paths = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        if number % 7 == 3:
            path.write_bytes(b"broken")
        else:
            Image.fromarray(photo_of(np.roll(FACES, number, 0), CORNERS[: number % 3])).save(path)
        paths.append(path)
    analyze = FaceAnalyzer(classifier, detector=FakeDetector())
    answers = list(analyze.stream(paths))
    assert [answer.name for answer in answers] == [str(path) for path in paths]
    for number, answer in enumerate(answers):
        assert (answer.error is not None) == (number % 7 == 3)
        if answer.error is None:
            assert len(answer.faces) == number % 3
            alone = analyze(paths[number])
            assert [face.label for face in answer.faces] == [face.label for face in alone.faces]


def test_a_stream_reads_only_a_few_pictures_ahead(classifier: Classifier) -> None:
    taken = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield FACES[0]

    stream = FaceAnalyzer(classifier, detector="whole").stream(endless())
    for _ in range(50):
        next(stream)
    assert taken < 50 + 20
    stream.close()
    until = time.monotonic() + 60
    while [t for t in threading.enumerate() if t.name.startswith("fer-edge-read")]:
        assert time.monotonic() < until, "the readers end"
        time.sleep(0.01)


def test_an_abandoned_stream_joins_no_thread(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector ends it where it likes: also where a join waits for ever."""
    stream = FaceAnalyzer(classifier, detector="whole").stream([FACES[0]] * 3)
    next(stream)
    monkeypatch.setattr(threading.Thread, "join", lambda *_, **__: pytest.fail("joined"))
    stream.close()


def test_only_its_own_classifier_is_closed(tiny_bundle: Bundle, classifier: Classifier) -> None:
    with FaceAnalyzer(classifier, detector="whole") as analyze:
        analyze(FACES[0])
    assert classifier.predict(FACES[0]).label
    with FaceAnalyzer(tiny_bundle.path, detector="whole") as analyze:
        assert analyze(FACES[0]).faces


def test_detectors_that_are_none(classifier: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "_is_installed", lambda package: False)
    with pytest.raises(UnavailableError, match="no face detector") as raised:
        FaceAnalyzer(classifier)
    assert raised.value.fix == detect.INSTALL
    with pytest.raises(UsageError, match="unknown detector"):
        FaceAnalyzer(classifier, detector="blaze")
    with pytest.raises(UsageError, match="detect"):
        FaceAnalyzer(classifier, detector=3)  # type: ignore[arg-type]


def test_it_is_public() -> None:
    assert "FaceAnalyzer" in fer_edge.__all__
    assert fer_edge.FaceAnalyzer is FaceAnalyzer
