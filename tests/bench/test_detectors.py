"""The composed scenes: a pasted face lies where the scene says, so that recall means something."""

from __future__ import annotations

from typing import Any

import detectors
import numpy as np
import pytest
import scenes

from fer_edge.data import FerDataset
from fer_edge.data.splits import Split
from fer_edge.faces import NO_FACES, Detections
from fer_edge.faces.crop import Square, cut
from fer_edge.faces.picture import Picture


def test_a_pasted_face_is_cut_out_again(faces: FerDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenes, "CONTRASTS", (1.0,))
    random = np.random.default_rng(0)
    rows = scenes.train_rows(faces)
    assert (faces.split[rows] == Split.TRAIN).all()
    seen = 0
    for _ in range(6):
        scene = scenes.compose(random, faces, rows, sides=(72, 144), tilts=(0, -20, 35))
        for face in scene.faces:
            wanted = faces.images[face.row][8:40, 8:40].ravel()

            def alike(
                moved: float, face: Any = face, scene: Any = scene, wanted: Any = wanted
            ) -> float:
                square = Square(face.x + moved * face.side, face.y, face.side, face.tilt)
                found = cut(Picture(scene.pixels, "a scene"), square)[8:40, 8:40]
                return float(np.corrcoef(found.ravel(), wanted)[0, 1])

            assert alike(0) > 0.85
            assert alike(0) > max(alike(0.06), alike(-0.06))
            seen += 1
    assert seen >= 6


def test_points_of_the_scene_are_points_of_the_crop() -> None:
    face = scenes.PastedFace(0, 100, 60, 96, 90, 1.0)
    points = np.array([[100, 60], [148, 60], [100, 108]], float)
    np.testing.assert_allclose(face.to_crop(points), [[24, 24], [24, 0], [48, 24]], atol=1e-9)


def test_a_detection_counts_once() -> None:
    scene = scenes.Scene(
        np.zeros((200, 300, 3), np.uint8),
        (scenes.PastedFace(0, 50, 50, 60, 0, 1.0), scenes.PastedFace(1, 200, 100, 60, 0, 1.0)),
    )
    assert detectors.matches(scene, NO_FACES) == [None, None]
    boxes = np.array([[170, 70, 230, 130], [0, 150, 40, 190], [22, 22, 78, 78]], np.float32)
    found = Detections(boxes, np.ones(3, np.float32), np.zeros((3, 4, 2), np.float32))
    assert detectors.matches(scene, found) == [2, 0]
