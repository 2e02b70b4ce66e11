"""Zips and folders of images, and every way in which they can be broken."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib

import numpy as np
import pytest
from fixtures_hypothesis import SHARED_FIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_edge.data import Split, load
from fer_edge.data.readers_images import _gray_from_bytes
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError

GRAY = np.full((48, 48), 90, dtype=np.uint8)


def one_bad(forms, content: bytes, name: str = "train/sad/Training_bad.png") -> dict[str, bytes]:
    return {**forms.files(forms.faces()), name: content}


def test_zip_and_folder_have_one_digest_and_the_rows_of_the_files(forms, tmp_path, own_cache):
    faces = forms.faces()
    files = forms.files(faces)
    zipped = load(forms.zip(tmp_path / "a.zip", files))
    folder = load(forms.folder(tmp_path / "b", files))
    assert zipped.sha256 == folder.sha256 == faces.sha256
    np.testing.assert_array_equal(zipped.images, faces.images)
    assert zipped.ids == faces.ids
    assert (zipped.source, folder.source) == ("a.zip", "b")


@settings(max_examples=10, suppress_health_check=SHARED_FIXTURE)
@given(seed=st.integers(0, 999))
def test_the_order_of_members_does_not_matter(forms, tmp_path, seed: int) -> None:
    faces = forms.faces(seed=seed)
    members = list(forms.files(faces).items())
    random.Random(seed).shuffle(members)
    got = load(forms.zip(tmp_path / f"{seed}.zip", dict(members)), cache=False)
    assert got.sha256 == faces.sha256


@pytest.mark.parametrize("wrapper", ["archive/", "a/b/fer2013/", ""])
def test_what_downloads_and_file_managers_add_is_ignored(forms, tmp_path, wrapper: str) -> None:
    files = forms.files(forms.faces())
    wrapped = {wrapper + name: content for name, content in files.items()}
    wrapped |= {
        "__MACOSX/archive/train/angry/._Training_0.png": b"junk",
        wrapper + ".DS_Store": b"junk",
        wrapper + "train/angry/.DS_Store": b"junk",
        wrapper + "test/happy/Thumbs.db": b"junk",
        wrapper + "README.txt": b"read me",
    }
    got = load(forms.zip(tmp_path / "a.zip", wrapped), cache=False)
    assert got.sha256 == forms.faces().sha256
    assert any("README.txt" in note for note in got.notes)


def test_suffixes_and_class_names_in_any_case_and_by_their_aliases(forms, tmp_path) -> None:
    aliases = {"angry": "Anger", "happy": "HAPPINESS", "sad": "sadness", "disgust": "Disgusted"}
    files = {}
    for name, content in forms.files(forms.faces()).items():
        split, emotion, file = name.split("/")
        files["/".join((split, aliases.get(emotion, emotion), file.replace("png", "PNG")))] = (
            content
        )
    got = load(forms.zip(tmp_path / "a.zip", files), cache=False)
    assert got.sha256 == forms.faces().sha256


def test_a_name_in_two_class_folders_is_two_images(forms, tmp_path) -> None:
    """FER2013 itself has such names."""
    files = one_bad(forms, forms.picture(GRAY), "train/sad/Training_7.png")
    files["train/happy/Training_7.png"] = forms.picture(GRAY)
    got = load(forms.zip(tmp_path / "a.zip", files), cache=False)
    assert {"sad/Training_7", "happy/Training_7"} <= set(got.ids)


# --- one broken image ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (lambda forms: forms.picture(GRAY[:47]), "48x47, not 48x48"),
        (lambda forms: forms.picture(GRAY[:, :47]), "47x48, not 48x48"),
        (lambda forms: b"this is no image", "not an image"),
        (lambda forms: b"", "not an image"),
        (lambda forms: forms.picture(GRAY, "JPEG")[:300], "not an image"),
        (lambda forms: forms.picture(GRAY)[:60], "not an image"),
        (lambda forms: forms.picture(GRAY.astype(np.uint16) * 9), "12 bits or fewer"),
        (lambda forms: bytes(5 << 20), "refused|too large"),
    ],
    ids=["47 rows", "47 columns", "text", "empty", "cut jpeg", "cut png", "12 bit", "5 MB"],
)
def test_a_bad_image_is_named(forms, tmp_path, refused, form, content, what) -> None:
    files = one_bad(forms, content(forms))
    path = getattr(forms, form)(tmp_path / "data.zip", files)
    message = refused(path)
    assert "Training_bad.png" in message
    assert str(path) in message
    assert any(part in message for part in what.split("|"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "1", "LA", "CMYK"])
def test_images_of_other_modes_are_converted_and_counted(forms, tmp_path, mode: str) -> None:
    buffer = io.BytesIO()
    kind = "TIFF" if mode == "CMYK" else "PNG"
    Image.fromarray(np.full((48, 48), 255, np.uint8)).convert(mode).save(buffer, kind)
    files = one_bad(forms, buffer.getvalue())
    got = load(forms.zip(tmp_path / "a.zip", files), cache=False)
    assert got.images[got.ids.index("sad/Training_bad")].min() >= 254
    assert any(note.startswith("1 images were not 8-bit gray") for note in got.notes)


def test_colour_becomes_luma(forms) -> None:
    red = np.zeros((48, 48, 3), np.uint8)
    red[..., 0] = 255
    gray, was_gray, _ = _gray_from_bytes(forms.picture(red), "red.png")
    assert not was_gray
    assert set(gray.reshape(-1).tolist()) == {76}  # 0.299 * 255


def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_decoded(forms) -> None:
    png = bytearray(forms.picture(GRAY))
    png[16:24] = struct.pack(">II", 9000, 9000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    with pytest.raises(DataError, match=r"huge\.png is 9000x9000"):
        _gray_from_bytes(bytes(png), "huge.png")


@settings(max_examples=150, suppress_health_check=SHARED_FIXTURE)
@given(st.data())
def test_a_damaged_image_is_read_or_refused_never_a_crash(forms, data) -> None:
    content = bytearray(forms.picture(GRAY, data.draw(st.sampled_from(["PNG", "JPEG", "BMP"]))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        image, *_ = _gray_from_bytes(bytes(content), "x")
    except DataError:
        return
    assert image.shape == (48, 48)


# --- a broken zip -------------------------------------------------------------------------------


def test_a_truncated_zip_is_refused(forms, tmp_path, refused) -> None:
    path = forms.zip(tmp_path / "a.zip", forms.files(forms.faces()))
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 10):
        path.write_bytes(content[:length])
        assert str(path) in refused(path)


def test_a_damaged_member_is_named(forms, tmp_path, refused) -> None:
    path = forms.zip(tmp_path / "a.zip", forms.files(forms.faces()))
    with zipfile.ZipFile(path) as archive:
        member = archive.infolist()[5]
    content = bytearray(path.read_bytes())
    content[member.header_offset + 30 + len(member.filename) + 40] ^= 0xFF
    path.write_bytes(content)
    message = refused(path)
    assert f"{path}: {member.filename}" in message


def test_an_encrypted_member_is_refused(forms, tmp_path, refused) -> None:
    path = forms.zip(tmp_path / "a.zip", forms.files(forms.faces()))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    path.write_bytes(content)
    assert "is encrypted" in refused(path)


def test_a_zip_bomb_is_refused_by_its_declared_size(forms, tmp_path, refused) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in one_bad(forms, bytes(8 << 20)).items():
            archive.writestr(name, content)
    assert path.stat().st_size < 1 << 20
    assert "would unpack to 8,388,608 bytes: refused" in refused(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused(forms, tmp_path, refused) -> None:
    files = forms.files(forms.faces())
    path = forms.zip(tmp_path / "a.zip", files)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(next(iter(files)), b"another")
    assert "members of the same name" in refused(path)


# --- class folders ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_a_missing_class_folder_is_named(forms, tmp_path, refused, form: str) -> None:
    files = {k: v for k, v in forms.files(forms.faces()).items() if "test/disgust" not in k}
    assert "'test/disgust' is missing or empty" in refused(
        getattr(forms, form)(tmp_path / "x.zip", files)
    )


def test_an_empty_class_folder_is_named(forms, tmp_path, refused) -> None:
    files = {k: v for k, v in forms.files(forms.faces()).items() if "train/fear" not in k}
    path = forms.folder(tmp_path / "x", files)
    (path / "train/fear").mkdir()
    assert "'train/fear' is missing or empty" in refused(path)


@pytest.mark.parametrize("name", ["bored", "0", "contempt"])
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_an_unknown_class_folder_is_named(forms, tmp_path, refused, form, name) -> None:
    files = one_bad(forms, forms.picture(GRAY), f"train/{name}/Training_1.png")
    message = refused(getattr(forms, form)(tmp_path / "x.zip", files))
    assert f"'train/{name}'" in message
    assert ("does not have" in message) == (name == "contempt")


def test_an_unknown_empty_class_folder_is_named(forms, tmp_path, refused) -> None:
    path = forms.folder(tmp_path / "x", forms.files(forms.faces()))
    (path / "train/bored").mkdir()
    assert "'train/bored'" in refused(path)


def test_an_empty_split_folder_is_named(forms, tmp_path, refused) -> None:
    path = forms.folder(tmp_path / "x", forms.files(forms.faces()))
    (path / "val").mkdir()
    assert "val has no images of angry" in refused(path)


def test_an_image_outside_class_folders_is_named(forms, tmp_path, refused) -> None:
    for where in ("loose.png", "train/loose.jpg"):
        path = forms.zip(tmp_path / "x.zip", one_bad(forms, forms.picture(GRAY), where))
        assert f"'{where}' is in no class folder" in refused(path)


def test_two_trees_side_by_side_are_refused(forms, tmp_path, refused) -> None:
    files = forms.files(forms.faces())
    both = {f"{top}/{name}": content for top in ("one", "two") for name, content in files.items()}
    assert "'one' and 'two'" in refused(forms.zip(tmp_path / "x.zip", both))


def test_two_files_with_one_id_are_refused(forms, tmp_path, refused) -> None:
    files = one_bad(forms, forms.picture(GRAY), "train/sad/Training_0.bmp")
    assert "'train/sad/Training_0.bmp'" in refused(forms.zip(tmp_path / "x.zip", files))


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_an_empty_source_is_refused(forms, tmp_path, refused, form: str) -> None:
    path = tmp_path / "x.zip"
    if form == "folder":
        path.mkdir()
    else:
        forms.zip(path, {})
    assert "has no images" in refused(path)


# --- splits of ImageFolder trees ----------------------------------------------------------------


def tree(forms, *folders: str) -> dict[str, bytes]:
    return {
        "/".join(filter(None, (folder, emotion, f"im{k}.png"))): forms.picture(GRAY + i * 20 + k)
        for i, folder in enumerate(folders)
        for emotion in EMOTIONS
        for k in range(2)
    }


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val", "test"), (Split.TRAIN, Split.PUBLIC, Split.PRIVATE)),
        (("Train", "Validation", "Testing"), (Split.TRAIN, Split.PUBLIC, Split.PRIVATE)),
        (("training", "public_test", "private_test"), tuple(Split)),
        (("train", "test"), (Split.TRAIN, Split.PUBLIC)),
        (("train", "private"), (Split.TRAIN, Split.PRIVATE)),
        (("",), (Split.TRAIN,)),
        (("test",), (Split.PUBLIC,)),
    ],
)
def test_folders_give_the_split_where_names_do_not(forms, tmp_path, folders, splits) -> None:
    got = load(forms.folder(tmp_path / "x", tree(forms, *folders)), cache=False)
    assert sorted(set(got.split.tolist())) == sorted(splits)
    for i, split in enumerate(splits):
        assert set(got.images[got.split == split].reshape(-1).tolist()) == {
            90 + i * 20,
            91 + i * 20,
        }
    assert any("by their folder" in n or "TRAIN" in n or "PUBLIC" in n for n in got.notes)
    assert not any("partial copy" in note for note in got.notes)


def test_a_test_folder_used_for_selection_is_said_to_be_no_final_test(forms, tmp_path) -> None:
    got = load(forms.folder(tmp_path / "x", tree(forms, "train", "test")), cache=False)
    assert any("not a final test" in note for note in got.notes)


def test_the_usage_prefix_wins_over_the_folder_and_it_is_noted(forms, tmp_path) -> None:
    files = one_bad(forms, forms.picture(GRAY), "train/sad/PrivateTest_99.png")
    got = load(forms.zip(tmp_path / "x.zip", files), cache=False)
    assert got.split[got.ids.index("sad/PrivateTest_99")] == Split.PRIVATE
    assert any("1 images are in the folder of another split" in note for note in got.notes)


def test_links_to_folders_are_followed_but_not_in_circles(forms, tmp_path) -> None:
    real = forms.folder(tmp_path / "real", forms.files(forms.faces()))
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("train", "test"):
        (linked / name).symlink_to(real / name)
    (linked / "train" / "angry" / "again").symlink_to(linked)
    assert load(linked, cache=False).sha256 == forms.faces().sha256
