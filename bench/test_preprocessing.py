"""The time to make 48x48 gray pixels from a picture, and to normalise them outside the graph.

::

    pytest bench/test_preprocessing.py
"""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from fer_edge.faces import face_from_image
from fer_edge.preprocessing import Preprocessing

RANDOM = np.random.default_rng(0)
GRAY48 = RANDOM.integers(0, 256, (48, 48), dtype=np.uint8)
RGB224 = RANDOM.integers(0, 256, (224, 224, 3), dtype=np.uint8)


@pytest.mark.benchmark(group="face_from_image")
@pytest.mark.parametrize(
    "image",
    [GRAY48, np.dstack([GRAY48] * 3), RGB224, Image.fromarray(RGB224)],
    ids=["gray48", "rgb48", "rgb224", "pillow224"],
)
def test_face(benchmark: BenchmarkFixture, image: np.ndarray | Image.Image) -> None:
    assert benchmark(face_from_image, image).shape == (48, 48)


@pytest.mark.benchmark(group="face_from_image")
@pytest.mark.parametrize(("pixels", "kind"), [(GRAY48, "PNG"), (GRAY48, "JPEG"), (RGB224, "JPEG")])
def test_decode(benchmark: BenchmarkFixture, pixels: np.ndarray, kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)

    def decode() -> np.ndarray:
        file.seek(0)
        with Image.open(file) as image:
            return face_from_image(image)

    assert benchmark(decode).shape == (48, 48)


@pytest.mark.benchmark(group="normalise")
@pytest.mark.parametrize("count", [1, 64])
def test_normalise(benchmark: BenchmarkFixture, count: int) -> None:
    images = np.tile(GRAY48, (count, 1, 1, 1))
    assert benchmark(Preprocessing().normalise, images).dtype == np.float32
