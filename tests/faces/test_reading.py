"""Pictures of any kind become 48x48 gray pixels, and what cannot is named."""

from __future__ import annotations

import io
import os
import sys
import threading
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fixtures_pictures import damaged, encoded, encoded_pictures
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fer_edge.errors import UsageError
from fer_edge.faces import face_from_image, picture_from_image, quiet

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


@pytest.mark.parametrize("hidden", [0, 90, 255])
def test_hidden_colour_of_transparent_pixels_has_no_effect(tmp_path: Path, hidden: int) -> None:
    """One picture, saved in every form that has transparency, is the same on white."""
    seen = np.tile(RAMP[:, :, None], (1, 1, 3))
    alpha = np.zeros((96, 96), np.uint8)
    alpha[20:70, 20:70] = 255
    shown = seen.copy()
    shown[alpha == 0] = 255
    wanted = face_from_image(shown)
    seen[alpha == 0] = hidden
    rgba = Image.fromarray(np.dstack([seen, alpha]))
    np.testing.assert_array_equal(face_from_image(np.asarray(rgba)), wanted)
    np.testing.assert_array_equal(face_from_image(rgba.convert("RGBa")), wanted)
    gray = Image.fromarray(np.dstack([seen[:, :, 0], alpha]))
    for name, picture in {"a.png": rgba, "b.webp": rgba, "c.png": gray, "d.tif": rgba}.items():
        options = {"lossless": True, "exact": True} if name.endswith("webp") else {}
        picture.save(tmp_path / name, **options)
        found = face_from_image(tmp_path / name)
        assert np.abs(found.astype(int) - wanted).max() <= 1, name


def test_a_transparent_palette_entry_and_a_transparent_gray(tmp_path: Path) -> None:
    levels = np.where(RAMP > 128, 7, 3).astype(np.uint8)
    palette = Image.fromarray(levels).convert("L").quantize(4)
    palette.save(tmp_path / "p.png", transparency=palette.getpixel((95, 0)))
    Image.fromarray(levels).save(tmp_path / "l.png", transparency=7)
    for name in ("p.png", "l.png"):
        face = face_from_image(tmp_path / name)
        assert face[:, -1].min() == 255, name
        assert face[:, 0].max() < 10, name


def test_16_bits_of_every_kind(tmp_path: Path) -> None:
    wide = RAMP.astype(np.uint16) * 257
    header = b"P5 96 96 65535\n"
    (tmp_path / "wide.pgm").write_bytes(header + wide.astype(">u2").tobytes())
    (tmp_path / "twelve.pgm").write_bytes(b"P5 96 96 4095\n" + (wide >> 4).astype(">u2").tobytes())
    Image.fromarray(wide).save(tmp_path / "wide.tif")
    for name in ("wide.pgm", "twelve.pgm", "wide.tif"):
        found = face_from_image(tmp_path / name).astype(int)
        assert np.abs(found - face_from_image(RAMP)).max() <= 1, name
    # 12 bits in words of 16 are nearly black: that is said, and not answered.
    Image.fromarray(wide >> 4).save(tmp_path / "twelve.png")
    with pytest.raises(UsageError, match="12 bits or") as raised:
        face_from_image(tmp_path / "twelve.png")
    assert raised.value.fix == "scale it to 8 bits"


def test_a_name_does_not_choose_the_codec(tmp_path: Path) -> None:
    """Pillow would start Ghostscript for an EPS, whatever its name."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "face.jpg").write_bytes(eps)
    with pytest.raises(UsageError, match="not an image that can be read"):
        face_from_image(tmp_path / "face.jpg")


@given(st.binary(min_size=6, max_size=60), st.integers(0, 2**31))
def test_no_damage_of_exif_is_another_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, seed: int
) -> None:
    random = np.random.default_rng(seed)
    body = bytearray(b"Exif\0\0MM\0*\0\0\0\x08\0\x05" + tail * 3)
    for _ in range(4):
        body[int(random.integers(6, len(body)))] = int(random.integers(256))
    path = tmp_path_factory.mktemp("exif") / "photo.jpg"
    Image.fromarray(RAMP).save(path, exif=bytes(body))
    assert face_from_image(path).shape == (48, 48)


FILES = encoded_pictures()


@pytest.mark.parametrize("name", FILES)
def test_every_format_is_read_from_a_file_bytes_and_an_open_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    face = face_from_image(tmp_path / name)
    for same in (
        FILES[name],
        bytearray(FILES[name]),
        io.BytesIO(FILES[name]),
        str(tmp_path / name),
    ):
        np.testing.assert_array_equal(face_from_image(same), face)
    with (tmp_path / name).open("rb") as file:
        np.testing.assert_array_equal(face_from_image(file), face)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_a_usage_error_or_a_picture(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever a codec raises, it is one error, and no library prints anything."""

    @given(damaged(FILES[name]))
    def check(content: bytes) -> None:
        try:
            picture = picture_from_image(content)
        except UsageError as error:
            text = str(error)
            assert "the bytes" in text
            assert text.isprintable()
        else:
            assert picture.gray.dtype == np.uint8
            assert picture.rgb.shape == (*picture.gray.shape, 3)

    check()
    assert capfd.readouterr() == ("", "")


def test_damage_is_found_in_each_format() -> None:
    """Cut in the middle, no file is a picture; so the test above sees both ends."""
    for name, content in FILES.items():
        if name not in {"a.bmp", "a.ppm"}:
            with pytest.raises(UsageError):
                face_from_image(content[:30])
        assert face_from_image(content).shape == (48, 48)


@pytest.mark.parametrize("kind", [OSError, KeyError, MemoryError, RecursionError, TypeError])
def test_any_failure_of_a_codec_is_a_usage_error(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("broken <_io.BytesIO object at 0x7f>")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UsageError, match="the bytes") as raised:
        face_from_image(FILES["a.jpg"])
    assert "0x7f" not in str(raised.value)


def test_formats_that_are_not_read_are_named() -> None:
    for format_ in ("DDS", "ICO", "PCX", "TGA", "SGI"):
        with pytest.raises(UsageError, match=r"can(not)? be read"):
            face_from_image(encoded(format_))


def test_a_heic_photograph_names_its_plug_in(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UsageError, match="HEIC") as raised:
        face_from_image(photo)
    assert "pip install pillow-heif" in str(raised.value.fix)
    # Where the plug-in is installed, it is used without being asked.
    called = []
    plug_in = types.ModuleType("pillow_heif")
    plug_in.register_heif_opener = lambda: called.append(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", plug_in)
    with pytest.raises(UsageError):
        face_from_image(photo)
    assert called


def test_no_warning_is_shown_and_no_filter_stays(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1200)
    before = list(warnings.filters)
    # pytest turns warnings into errors, so a shown one would raise.
    assert face_from_image(encoded("PNG")).shape == (48, 48)
    assert list(warnings.filters) == before
    assert capfd.readouterr() == ("", "")


def test_quiet_in_many_threads_restores_the_filters() -> None:
    before = list(warnings.filters)
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        for _ in range(200):
            with quiet():
                pass

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_paths_that_are_none(tmp_path: Path) -> None:
    for path in ("", ".", "a\0b", "x" * 5000, str(tmp_path / ("y" * 300))):
        with pytest.raises(UsageError):
            face_from_image(path)
    with pytest.raises(UsageError, match="not bytes"):
        face_from_image(io.StringIO("text"))  # type: ignore[arg-type]


def test_a_picture_has_its_colours_and_its_gray() -> None:
    red = np.zeros((5, 9, 3), np.uint8)
    red[:, :, 0] = 255
    picture = picture_from_image(red)
    assert picture.size == (9, 5)
    np.testing.assert_array_equal(picture.rgb, red)
    np.testing.assert_array_equal(picture.gray, 76)
    frame = picture_from_image(red[:, :, ::-1], bgr=True)
    np.testing.assert_array_equal(frame.rgb, red)
    gray = picture_from_image(GRAY)
    assert gray.is_gray
    np.testing.assert_array_equal(gray.rgb[:, :, 1], GRAY)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(UsageError, match="not a regular file"):
            face_from_image(path)


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
    for name, bad in cases.items():
        (tmp_path / name).write_bytes(bad)
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
