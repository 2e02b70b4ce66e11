"""The examples in Python: embedded, as a service, with a camera."""

from __future__ import annotations

import importlib.util
import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from fixtures_examples import EXAMPLES, RunExample
from PIL import Image

from fer_edge import EMOTIONS, Bundle, Classifier, FaceAnalyzer


def test_embedded_crops_have_the_answers_of_the_classifier(
    run_example: RunExample, crops: list[Path], tiny_bundle: Bundle
) -> None:
    printed = run_example(
        "embed-python/embed.py", *crops, "--bundle", tiny_bundle.path, "--detector", "whole"
    )
    with Classifier(tiny_bundle) as classify:
        answers = [classify.predict(path) for path in crops]
    assert printed.splitlines() == [
        f"{path.name}: {answer.label} {answer.confidence:.3f}"
        for path, answer in zip(crops, answers)
    ]


def test_embedded_photographs(
    run_example: RunExample, astronaut: np.ndarray, finder: str, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    Image.fromarray(astronaut).save(tmp_path / "astronaut.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    printed = run_example(
        "embed-python/embed.py",
        *(tmp_path / "astronaut.png", tmp_path / "broken.png", "--detector", finder),
        *("--bundle", tiny_bundle.path),
    ).splitlines()
    with FaceAnalyzer(tiny_bundle, detector=finder) as analyze:
        faces = analyze(astronaut).faces
    assert printed[0] == f"astronaut.png: {len(faces)} faces"
    assert printed[1].split()[-1] == faces[0].label in EMOTIONS
    assert printed[-1].startswith("broken.png: ")


def test_the_service_answers_and_refuses(
    astronaut: np.ndarray,
    finder: str,
    tiny_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for package in ("fastapi", "httpx", "python_multipart"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install fastapi httpx python-multipart")
    from fastapi.testclient import TestClient

    monkeypatch.setenv("DETECTOR", finder)
    monkeypatch.setenv("BUNDLE", str(tiny_bundle.path))
    spec = importlib.util.spec_from_file_location(
        "example_service", EXAMPLES / "fastapi-service" / "service.py"
    )
    assert spec
    assert spec.loader
    service = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(service)
    picture = io.BytesIO()
    Image.fromarray(astronaut).save(picture, "PNG")
    with service.analyze, TestClient(service.app) as client:
        answer = client.post("/faces", files={"picture": picture.getvalue()})
        refused = client.post("/faces", files={"picture": b"not a picture"})
        faces = service.analyze(astronaut).faces
    assert answer.status_code == 200
    assert [row["label"] for row in answer.json()] == [face.label for face in faces]
    assert [tuple(row["box"]) for row in answer.json()] == [face.box for face in faces]
    assert refused.status_code == 400
    assert "not an image" in refused.json()["detail"]


def test_the_webcam_marks_the_frames_of_a_video(
    run_example: RunExample, astronaut: np.ndarray, finder: str, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    cv2 = pytest.importorskip("cv2", reason="pip install 'fer-edge[camera]'")
    frame = np.ascontiguousarray(astronaut[:300, 100:400, ::-1])
    size, kind = frame.shape[1::-1], cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(tmp_path / "in.avi"), kind, 25, size)
    for _ in range(3):
        writer.write(frame)
    writer.release()
    run_example(
        *("webcam/webcam.py", tmp_path / "in.avi", "--write", tmp_path / "out.avi"),
        *("--detector", finder, "--bundle", tiny_bundle.path),
    )
    video, frames = cv2.VideoCapture(str(tmp_path / "out.avi")), []
    while True:
        there, marked = video.read()
        if not there:
            break
        frames.append(marked)
    assert len(frames) == 3
    # Green lines and a text were drawn, and nothing else was changed by more than JPEG does.
    changed = np.abs(frames[0].astype(int) - frame).max(2) > 100
    assert 200 < changed.sum() < changed.size // 5
    assert frames[0][changed][:, 1].mean() > 150
