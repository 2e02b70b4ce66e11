"""Pictures of any kind become 48x48 gray pixels, and what cannot is named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fer_edge.errors import UsageError
from fer_edge.faces import face_from_image

RANDOM = np.random.default_rng(0)
GRAY = RANDOM.integers(0, 256, (48, 48), dtype=np.uint8)
RAMP = np.linspace(0, 255, 96).astype(np.uint8) * np.ones((96, 1), np.uint8)


def test_48x48_gray_is_untouched(tmp_path: Path) -> None:
    assert face_from_image(GRAY) is GRAY
    np.testing.assert_array_equal(face_from_image(GRAY[:, :, None]), GRAY)
    np.testing.assert_array_equal(face_from_image(np.dstack([GRAY] * 3)), GRAY)
    np.testing.assert_array_equal(face_from_image(Image.fromarray(GRAY)), GRAY)
    Image.fromarray(GRAY).save(tmp_path / "face.png")
    np.testing.assert_array_equal(face_from_image(tmp_path / "face.png"), GRAY)
    np.testing.assert_array_equal(face_from_image(str(tmp_path / "face.png")), GRAY)


@given(
    hnp.arrays(
        np.uint8,
        st.tuples(st.integers(1, 90), st.integers(1, 90))
        | st.tuples(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 3, 4])),
    )
)
def test_every_array_of_pixels(image: np.ndarray) -> None:
    face = face_from_image(image)
    assert face.shape == (48, 48)
    assert face.dtype == np.uint8
    assert face.flags.c_contiguous


def test_colour_by_itu_r_601() -> None:
    for color, luma in (((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)):
        face = face_from_image(np.full((60, 60, 3), color, np.uint8))
        np.testing.assert_array_equal(face, luma)


def test_resizing_is_antialiased() -> None:
    # Lines of one pixel, shrunk four times: sampling would give black or white, not gray.
    lines = np.zeros((192, 192), np.uint8)
    lines[:, ::2] = 255
    face = face_from_image(lines)
    assert 118 <= face.min() <= face.max() <= 138


def test_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    Image.fromarray(RAMP).save(tmp_path / "turned.png", exif=exif)
    face = face_from_image(tmp_path / "turned.png")
    np.testing.assert_array_equal(face, face_from_image(np.rot90(RAMP, -1)))
    assert face[0].mean() < 10
    assert face[-1].mean() > 245


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes(mode: str) -> None:
    face = face_from_image(Image.fromarray(RAMP).convert("RGB").convert(mode))
    assert face[:, 0].mean() < 40
    assert face[:, -1].mean() > 215


def test_16_bits(tmp_path: Path) -> None:
    wide = RAMP.astype(np.uint16) * 257
    Image.fromarray(wide).save(tmp_path / "wide.png")
    np.testing.assert_array_equal(face_from_image(tmp_path / "wide.png"), face_from_image(RAMP))
    for dtype in (np.int32, np.float32):
        with pytest.raises(UsageError, match="unknown range"):
            face_from_image(Image.fromarray(RAMP.astype(dtype)))


@pytest.mark.parametrize(
    "image",
    [
        GRAY.astype(np.float32),
        GRAY.astype(np.int64),
        GRAY > 3,
        np.zeros((3, 48, 48), np.uint8),
        np.zeros((1, 1, 48, 48), np.uint8),
        np.zeros((48, 48, 2), np.uint8),
        np.zeros(48, np.uint8),
        np.zeros((0, 48), np.uint8),
        np.zeros((48, 0, 3), np.uint8),
        np.array(5, np.uint8),
        [[1]],
        None,
        b"bytes",
    ],
)
def test_what_is_no_image(image: object) -> None:
    with pytest.raises(UsageError):
        face_from_image(image)  # type: ignore[arg-type]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (200, 200, 3), dtype=np.uint8)).save(
        tmp_path / "good.jpg"
    )
    content = (tmp_path / "good.jpg").read_bytes()
    cases = {
        "text.jpg": b"not an image",
        "empty.png": b"",
        "cut.jpg": content[: len(content) // 2],
        "header.png": b"\x89PNG\r\n\x1a\n" + b"\x00" * 40,
    }
    for name, damaged in cases.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(UsageError, match=name.replace(".", r"\.")):
            face_from_image(tmp_path / name)
    for missing in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(UsageError, match=missing.name):
            face_from_image(missing)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (300, 300)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UsageError, match="too large"):
        face_from_image(tmp_path / "large.png")


@pytest.mark.fer2013
def test_real_files_give_the_pixels_that_were_trained_on(
    fer2013_source: Path, tmp_path: Path
) -> None:
    """The way in of an application and that of the data set must not differ by a gray level."""
    from fer_edge.data import load

    if fer2013_source.suffix != ".zip":
        pytest.skip("FER_EDGE_DATA is no zip")
    dataset = load(fer2013_source)
    known = {image.tobytes() for image in dataset.images}
    with zipfile.ZipFile(fer2013_source) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        for name in names[:: len(names) // 25]:
            face = face_from_image(archive.extract(name, tmp_path))
            assert face.tobytes() in known
