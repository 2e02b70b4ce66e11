"""The forms in which people have data sets: read, or refused with the reason and a fix that works.

Each fix that names a command is run here, and what it makes is loaded.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest

from fer_edge.cli import main
from fer_edge.data import Resplit, Split, apply_resplit, load
from fer_edge.data.ferplus.file import COLUMNS, read_votes
from fer_edge.data.splits import is_split_folder, similar_split_folder
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import DataError


@pytest.fixture(scope="module")
def faces(forms):
    return forms.faces()


@pytest.fixture
def files(forms, faces) -> dict[str, bytes]:
    return forms.files(faces)


@pytest.fixture
def table(forms, faces) -> str:
    return forms.csv_text(faces)


def refusal(source: Path, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        load(source, cache=False, **options)
    assert str(source) in str(caught.value)
    return caught.value


def run_command(error: DataError) -> Path:
    """Run the command of a fix "unpack it: COMMAND; then give PATH"; return the path."""
    found = re.fullmatch(r"unpack it: (.*); then give (.*)", str(error.fix))
    assert found, error.fix
    subprocess.run(["bash", "-c", found[1]], check=True, timeout=60)
    return Path(found[2])


def run_classes(error: DataError, source: Path):
    """Load with the ``--classes`` of a fix."""
    found = re.search(r"--classes ('[^']*'|[^\s;]+)", str(error.fix))
    assert found, error.fix
    (option,) = shlex.split(found[1])
    return load(source, classes=option, cache=False)


# --- packed, and of other programs ----------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["fer2013.tar.gz", "fer2013.tgz", "fer 2013.tar", "x.gz", "noname"]
)
def test_a_tar_is_refused_and_its_fix_unpacks_it(forms, files, faces, tmp_path, name: str) -> None:
    folder = forms.folder(tmp_path / "in" / "fer", files)
    path = tmp_path / name
    with tarfile.open(path, "w:" if name.endswith((".tar", "noname")) else "w:gz") as archive:
        archive.add(folder, "fer")
    error = refusal(path)
    assert "is a tar" in str(error)
    assert load(run_command(error), cache=False).sha256 == faces.sha256


@pytest.mark.parametrize("name", ["fer2013.csv.gz", "fer2013.gz", "it's packed"])
def test_a_packed_table_is_refused_and_its_fix_unpacks_it(table, tmp_path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(table.encode()))
    error = refusal(path)
    assert "is packed with gzip" in str(error)
    assert len(load(run_command(error), cache=False)) == 42


@pytest.mark.parametrize(
    ("content", "name", "what", "fix"),
    [
        (b"7z\xbc\xaf\x27\x1c" + bytes(40), "a.7z", "is a 7z archive", "7z x "),
        (b"Rar!\x1a\x07\0" + bytes(40), "a.zip", "is a rar archive", "unrar x "),
        (b"PAR1" + bytes(40), "train.parquet", "is a Parquet table", "row['image'].save"),
        (b"ARROW1" + bytes(40), "data.arrow", "is an Arrow table", "row['image'].save"),
        (b"\x89HDF\r\n" + bytes(40), "a.h5", "is an HDF5 file", "give the Kaggle zip"),
        (b"\x93NUMPY\1\0" + bytes(40), "a.npy", "one NumPy array", "give the Kaggle zip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a.zip", "Git LFS", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "archive.zip", "is a web page", "in a browser"),
        (b"\n <html lang=en>", "fer2013.csv", "is a web page", "in a browser"),
        (b"\x80\4\x95" + bytes(40), "a.pkl", "is a pickle", "give the Kaggle zip"),
        (b"\x80\4\x95" + bytes(40), "a.npz", "is a pickle", "give the Kaggle zip"),
        (b"%PDF-1.5", "a", "is a PDF", "give the Kaggle zip"),
        (b"\0\1\2\3" * 9, "a.bin", "not in a format", "give the Kaggle zip"),
        (b"", "a.zip", "is empty", "download it again"),
        (b"PK\3\4" + bytes(100), "a.zip", "is truncated", "download it again"),
    ],
)
def test_what_is_no_data_set_is_said(tmp_path, content, name, what, fix) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refusal(path)
    assert what in str(error)
    assert fix in str(error.fix)


def test_one_picture_is_for_predict(forms, tmp_path, capsys) -> None:
    path = tmp_path / "a face.png"
    path.write_bytes(forms.picture(np.full((48, 48), 90, np.uint8)))
    error = refusal(path)
    assert "one picture" in str(error)
    command = shlex.split(str(error.fix))
    assert command[:2] == ["fer-edge", "predict"]
    assert Path(command[2]) == path
    main([*command[1:], "--help"])
    assert "predict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("members", "what"),
    [
        (["[Content_Types].xml", "xl/workbook.xml"], "a document or a spreadsheet"),
        (["model/data.pkl", "model/version"], "a file of PyTorch"),
    ],
)
def test_zips_of_other_programs_are_said(forms, tmp_path, members, what) -> None:
    assert what in str(refusal(forms.zip(tmp_path / "a.zip", dict.fromkeys(members, b"x"))))


@pytest.mark.parametrize(
    ("inside", "what"),
    [
        ("fer2013.tar.gz", "it has an archive: 'x/fer2013.tar.gz'"),
        ("archive.zip", "it has an archive: 'x/archive.zip'"),
        ("train-00000-of-00001.parquet", "it has the table"),
        ("data-00000-of-00001.arrow", "it has the table"),
        ("fer.npz", "it has a file: 'x/fer.npz'"),
    ],
)
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_a_folder_with_the_data_in_another_form_says_so(forms, tmp_path, form, inside, what):
    inner = {f"x/{inside}": b"1", "README.md": b"hello", "x/dataset_info.json": b"{}"}
    error = refusal(getattr(forms, form)(tmp_path / "source", inner))
    assert what in str(error)
    assert error.fix


def test_the_fix_of_a_folder_with_a_zip_works(forms, files, faces, tmp_path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    forms.zip(folder / "archive.zip", files)
    error = refusal(folder)
    assert str(error.fix).startswith("give ")
    assert load(str(error.fix).removeprefix("give "), cache=False).sha256 == faces.sha256


# --- tables ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_table_of_any_separator_and_encoding(faces, table, tmp_path, separator, encoding) -> None:
    path = tmp_path / "my faces.csv"
    path.write_bytes(table.replace(",", separator).encode(encoding))
    got = load(path, cache=False)
    np.testing.assert_array_equal(got.images, faces.images)
    np.testing.assert_array_equal(got.labels, faces.labels)
    np.testing.assert_array_equal(got.split, faces.split)


@pytest.mark.parametrize("name", ["fer", "fer.zip", "fer.tsv", "fer.csv", "FER.CSV", "fer.txt"])
def test_a_table_is_known_by_its_content(table, faces, tmp_path, name: str) -> None:
    (tmp_path / name).write_text(table)
    assert len(load(tmp_path / name, cache=False)) == len(faces)


@pytest.mark.parametrize(
    "header",
    ["Emotion,Pixels,usage", '"emotion","pixels","Usage"', " EMOTION , pixels,USAGE ", "sep=,"],
)
def test_the_header_in_other_writing(table, faces, tmp_path, header: str) -> None:
    path = tmp_path / "fer2013.csv"
    lines = table.split("\n")
    lines[:1] = [header, lines[0]] if "sep" in header else [header]
    path.write_text("\r\n".join(lines))
    got = load(path, cache=False)
    np.testing.assert_array_equal(got.images, faces.images)


def test_more_columns_and_latin_1_in_one_of_them(table, faces, tmp_path) -> None:
    path = tmp_path / "fer2013.csv"
    head, *rows = table.rstrip("\n").split("\n")
    path.write_bytes(
        "\n".join([f"who,{head}", *(f"Jos\xe9,{row}" for row in rows)]).encode("latin-1")
    )
    np.testing.assert_array_equal(load(path, cache=False).images, faces.images)


@pytest.mark.parametrize(("left", "between", "right"), [("[", ", ", "]"), ("[", " ", "]")])
def test_pixels_saved_as_a_list(table, faces, tmp_path, left, between, right) -> None:
    path = tmp_path / "fer2013.csv"
    text = re.sub(r'"([\d ]+)"', lambda m: f'"{left}{m[1].replace(" ", between)}{right}"', table)
    path.write_text(text)
    np.testing.assert_array_equal(load(path, cache=False).images, faces.images)


def test_a_bad_row_after_excels_line_has_its_own_line(table, tmp_path) -> None:
    path = tmp_path / "fer2013.csv"
    lines = ["sep=;", *table.replace(",", ";").split("\n")]
    lines[3] = "9" + lines[3][1:]
    path.write_text("\n".join(lines))
    assert "line 4: the label is '9'" in str(refusal(path))


def test_train_csv_of_the_contest_is_train_and_names_split(faces, table, tmp_path, capsys) -> None:
    path = tmp_path / "train.csv"
    path.write_text("\n".join(line.rpartition(",")[0] for line in table.split("\n")))
    got = load(path, cache=False)
    assert set(got.split.tolist()) == {Split.TRAIN}
    assert len(got) == len(faces)
    assert any("no column Usage: all 42 rows are TRAIN" in note for note in got.notes)
    main(["data", "info", str(path)])
    assert "--split 80/10/10" in capsys.readouterr().out
    with pytest.raises(DataError) as caught:
        got.select("public")
    assert "fer-edge train --split 80/10/10" in str(caught.value.fix)
    again = apply_resplit(Resplit("80/10/10"), got)
    assert {Split.TRAIN, Split.PUBLIC, Split.PRIVATE} == set(again.split.tolist())


def test_a_set_with_public_does_not_name_split(faces, forms, files, tmp_path, capsys) -> None:
    main(["data", "info", str(forms.zip(tmp_path / "a.zip", files))])
    assert "--split" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("header", "what", "fix"),
    [
        ("pixels", "no column 'emotion'", "test.csv of the contest has none"),
        ("label,pixels", "no column 'emotion'", "'label' has FER2013's numbers (0 angry, 1"),
        ("emotions,pixels", "no column 'emotion'", "name that column emotion"),
        ("emotion,pixel", "no column 'pixels'", "the columns are emotion"),
        ("emotion,pixels,emotion", "'emotion' is there twice", "the columns are"),
        ("emotion," + ",".join(f"p{i}" for i in range(2304)), "no column 'pixels'", "join the pix"),
        (
            "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,"
            "unknown,NF",
            "is the file of votes of FER+",
            "--votes",
        ),
    ],
)
def test_a_header_without_a_column_says_what_is_there(tmp_path, header, what, fix) -> None:
    path = tmp_path / "some.csv"
    path.write_text(f"{header}\n")
    error = refusal(path)
    assert what in str(error)
    assert fix in str(error.fix)


def test_cells_beyond_the_header_are_refused_and_empty_ones_are_not(table, faces, tmp_path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(table.replace("Training\n", "Training,,\n"))
    assert len(load(path, cache=False)) == len(faces)
    path.write_text(table.replace("Training\n", "Training,Training\n", 1))
    assert "line 2: it has 4 cells, more than the header" in str(refusal(path))


@pytest.mark.parametrize("form", ["zip", "folder"])
@pytest.mark.parametrize(
    "others", [{}, {"test.csv": b"pixels\n1\n", "example_submission.csv": b"emotion\n1\n"}]
)
def test_a_table_of_another_name_in_a_folder(forms, table, faces, tmp_path, form, others) -> None:
    inside = {"fer/all faces.csv": table.encode(), "README.txt": b"hello", **others}
    got = load(getattr(forms, form)(tmp_path / "source", inside), cache=False)
    np.testing.assert_array_equal(got.images, faces.images)
    assert "read from 'fer/all faces.csv'" in got.notes


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_two_tables_are_refused(forms, table, faces, tmp_path, form) -> None:
    for names in (("a/fer2013.csv", "b/fer2013.csv"), ("one.csv", "two.csv")):
        inside = dict.fromkeys(names, table.encode())
        source = getattr(forms, form)(tmp_path / names[0].replace("/", "-"), inside)
        error = refusal(source)
        assert "2 tables of images" in str(error)
        if form == "folder":
            named = str(error.fix).removeprefix("give one of them, such as ")
            assert len(load(named, cache=False)) == len(faces)


def test_images_beside_a_table_are_said(forms, table, files, tmp_path) -> None:
    got = load(forms.folder(tmp_path / "x", {**files, "fer2013.csv": table.encode()}), cache=False)
    assert "the 42 image files beside 'fer2013.csv' are not read" in got.notes


# --- trees ----------------------------------------------------------------------------------------


def test_backslashes_in_a_zip_and_in_what_it_unpacks_to(forms, files, faces, tmp_path) -> None:
    windows = {f"archive\\{name}".replace("/", "\\"): content for name, content in files.items()}
    path = forms.zip(tmp_path / "windows.zip", windows)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive\\train\\", b"")
    zipped = load(path, cache=False)
    folder = tmp_path / "unpacked"
    folder.mkdir()
    for name, content in windows.items():
        (folder / name).write_bytes(content)
    unpacked = load(folder, cache=False)
    assert zipped.sha256 == unpacked.sha256 == faces.sha256
    for got in (zipped, unpacked):
        assert any("backslashes" in note for note in got.notes)


def test_backslashes_and_slashes_of_one_name_are_refused(forms, files, tmp_path) -> None:
    name = next(iter(files))
    path = forms.zip(tmp_path / "a.zip", {**files, name.replace("/", "\\"): b"x"})
    assert "two files of the same name" in str(refusal(path))


@pytest.mark.parametrize(
    ("train", "public"),
    [
        ("train_set", "validation_set"),
        ("Training", "PublicTest"),
        ("TrainSet", "val"),
        ("train-images", "Valid Images"),
        ("FER2013Train", "FER2013Valid"),
        ("train_data", "dev"),
        ("trainingset", "eval"),
    ],
)
def test_split_folders_of_other_names(forms, faces, tmp_path, train: str, public: str) -> None:
    inside = {}
    for image, label, split in zip(faces.images, faces.labels, faces.split):
        where = {Split.TRAIN: train, Split.PUBLIC: public, Split.PRIVATE: "test_set"}[Split(split)]
        name = f"{where}/{EMOTIONS[label]}/{len(inside)}.png"
        inside[name] = forms.picture(image)
    got = load(forms.zip(tmp_path / "a.zip", inside), cache=False)
    assert np.bincount(got.split).tolist() == [14, 14, 14]


@pytest.mark.parametrize("name", ["images", "data", "trainee", "fer", "set", "my set", "x" * 9999])
def test_other_folders_are_no_splits(name: str) -> None:
    assert not is_split_folder(name)


def test_a_misspelt_split_folder_is_suggested_and_the_fix_works(forms, files, tmp_path) -> None:
    misspelt = {name.replace("train/", "tarin/"): content for name, content in files.items()}
    folder = forms.folder(tmp_path / "x", misspelt)
    assert similar_split_folder("tarin") == "train"
    error = refusal(folder)
    assert "rename the folder 'tarin' to 'train'" in str(error.fix)
    (folder / "tarin").rename(folder / "train")
    load(folder, cache=False)


def test_one_of_two_trees_can_be_given(forms, files, faces, tmp_path) -> None:
    both = {f"{top}/{name}": content for top in ("one", "two") for name, content in files.items()}
    error = refusal(forms.folder(tmp_path / "x", both))
    named = str(error.fix).rpartition("give one of them, such as ")[2]
    assert load(named, cache=False).sha256 == faces.sha256


def test_foreign_files_in_class_folders_are_counted(forms, files, faces, tmp_path) -> None:
    foreign = {
        "train/angry/README": b"1",
        "train/angry/notes.txt": b"1",
        "train/happy/._Training_0.png": b"1",
        "train/happy/Thumbs.db": b"1",
        "__MACOSX/train/sad/._x.png": b"1",
        "train/desktop.ini": b"1",
        "labels.csv": b"name,label\n",
    }
    for form in ("zip", "folder"):
        got = load(getattr(forms, form)(tmp_path / form, {**files, **foreign}), cache=False)
        assert got.sha256 == faces.sha256
        assert any(note.startswith("3 other files were ignored") for note in got.notes)


def test_hidden_images_are_counted(forms, files, faces, tmp_path) -> None:
    more = {"train/angry/.hidden.png": b"1", "train/.trash/x.png": b"1"}
    for form, count in (("zip", 2), ("folder", 1)):
        got = load(getattr(forms, form)(tmp_path / form, {**files, **more}), cache=False)
        assert got.sha256 == faces.sha256
        assert any(note.startswith(f"{count} hidden images are left out") for note in got.notes)


def renamed(files: dict[str, bytes], names: dict[str, str]) -> dict[str, bytes]:
    found = {}
    for path, content in files.items():
        split, emotion, name = path.split("/")
        found["/".join((split, names.get(emotion, emotion), name))] = content
    return found


@pytest.mark.parametrize(
    "names",
    [
        {"surprise": "suprise"},
        {"surprise": "Suprised", "happy": "hapy"},
        {"neutral": "nuetral"},
        {"disgust": "disgusting face"},
        {name: name[:2].upper() for name in EMOTIONS},
        {name: str(label) for label, name in enumerate(EMOTIONS)},
        dict(zip(("surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"), "1234567")),
    ],
)
def test_misspelt_classes_have_a_mapping_that_works(forms, faces, files, tmp_path, names) -> None:
    folder = forms.folder(tmp_path / "x", renamed(files, names))
    got = run_classes(refusal(folder), folder)
    np.testing.assert_array_equal(np.sort(got.labels), np.sort(faces.labels))
    assert got.classes.names == EMOTIONS
    for image, label in zip(got.images, got.labels):
        (row,) = np.flatnonzero((faces.images == image).all(axis=(1, 2)))
        assert faces.labels[row] == label


def test_the_fields_own_names_need_no_mapping(forms, faces, files, tmp_path) -> None:
    names = dict(
        zip(
            EMOTIONS,
            ("Anger", "Disgusted", "Fearful", "Happiness", "Sadness", "Surprised", "Neutral"),
        )
    )
    got = load(forms.folder(tmp_path / "x", renamed(files, names)), cache=False)
    assert got.sha256 == faces.sha256


def test_a_class_that_is_missing_has_a_list_that_works(forms, files, tmp_path) -> None:
    few = {name: content for name, content in files.items() if "test/disgust" not in name}
    few = {name.replace("/happy/", "/Happiness/"): content for name, content in few.items()}
    folder = forms.folder(tmp_path / "x", few)
    (folder / "test/disgust").mkdir()
    error = refusal(folder)
    assert "'test/disgust' is missing or empty" in str(error)
    got = run_classes(error, folder)
    assert got.classes.names == tuple(name for name in EMOTIONS if name != "disgust")


def test_a_folder_inside_a_class_folder_is_said(forms, files, tmp_path) -> None:
    one = files.pop("train/angry/Training_0.png")
    folder = forms.folder(tmp_path / "x", {**files, "train/angry/more/Training_0.png": one})
    error = refusal(folder)
    assert "'train/angry/more' is a folder inside the class folder 'train/angry'" in str(error)


# --- what is no regular file, and what may not be read --------------------------------------------


def test_dangling_links_are_refused_with_their_target(forms, files, tmp_path) -> None:
    folder = forms.folder(tmp_path / "x", files)
    for link in (folder / "train/angry/Training_9.png", folder / "train/bored"):
        link.symlink_to(tmp_path / "gone")
        error = refusal(folder)
        assert f"{link} is a link to" in str(error)
        assert "gone" in str(error)
        link.unlink()
    loop = folder / "train/angry/loop.png"
    loop.symlink_to(loop)
    assert "leads back to itself" in str(refusal(folder))
    loop.unlink()
    (tmp_path / "here").symlink_to(tmp_path / "gone")
    assert "is a link to" in str(refusal(tmp_path / "here"))


def test_one_folder_linked_twice_is_read_twice(forms, files, faces, tmp_path) -> None:
    """A link is only not followed where it leads into a circle: no image is lost."""
    folder = forms.folder(tmp_path / "x", files)
    shutil.rmtree(folder / "train/sad")
    (folder / "train/sad").symlink_to(folder / "train/happy")
    got = load(folder, cache=False)
    assert len(got) == len(faces)
    assert (got.labels == EMOTIONS.index("sad")).sum() == 6


@contextmanager
def bound(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        try:
            server.bind(f"/proc/self/fd/{here}/{path.name}")  # the whole path may be too long
            yield
        finally:
            os.close(here)


@pytest.mark.parametrize("where", ["source", "image", "votes"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(forms, files, tmp_path, where, kind) -> None:
    folder = forms.folder(tmp_path / "x", files)
    path = folder / "train/angry/odd.png" if where == "image" else tmp_path / "odd.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    source = path if where == "source" else folder
    with (
        bound(path) if kind == "socket" else nullcontext(),
        pytest.raises(DataError) as caught,
    ):
        load(source, votes=path if where == "votes" else None, cache=False)
    assert f"{path} is a {kind}" in str(caught.value)


def test_a_name_that_is_too_long_and_a_file_used_as_a_folder(tmp_path) -> None:
    with pytest.raises(DataError, match="is too long"):
        load(tmp_path / ("x" * 300 + ".zip"))
    with pytest.raises(DataError, match=r"is too long|does not exist"):
        load("/".join(["y" * 200] * 40))
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="a part of this path is a file"):
        load(tmp_path / "file" / "x.zip")
    with pytest.raises(DataError, match="does not exist") as caught:
        load(tmp_path / "nowhere.zip")
    assert "download FER2013" in str(caught.value.fix)
    with pytest.raises(DataError, match="cannot be found"):
        load("~no-such-user-here/fer.zip")
    with pytest.raises(DataError, match=r"cannot be read|does not exist"):
        load("a\0b.zip")


def test_no_permission_is_said_and_the_fix_works(forms, files, faces) -> None:
    """As another user, since root may read everything."""
    if os.geteuid():
        pytest.skip("needs root, to become a user who may read nothing")
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        os.chmod(top, 0o755)  # noqa: PTH101
        folder = forms.folder(Path(top) / "my data", files)
        nobody = 65534
        for path in [Path(top), folder, *folder.rglob("*")]:
            os.chown(path, nobody, nobody)
        for hidden in ("train/angry/Training_0.png", "train/angry", ".", ".."):
            (folder / hidden).chmod(0)
            os.seteuid(nobody)
            try:
                error = refusal(folder)
            finally:
                os.seteuid(0)
            assert "no permission" in str(error)
            command = str(error.fix).partition(": ")[2]
            subprocess.run(["bash", "-c", command], check=True, user=nobody, timeout=60)
            os.seteuid(nobody)
            try:
                assert load(folder, cache=False).sha256 == faces.sha256
            finally:
                os.seteuid(0)


def test_a_folder_that_cannot_be_listed_is_no_smaller_data_set(
    forms, files, tmp_path, monkeypatch
) -> None:
    folder = forms.folder(tmp_path / "x", {**files, "train/extra/README": b"1"})
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("angry"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert "no permission" in str(refusal(folder))


def test_a_buffer_is_used_by_nobody(table) -> None:
    """``read_csv_stream`` leaves the stream open."""
    from fer_edge.data.readers_csv import read_csv_stream

    stream = io.BytesIO(table.encode())
    read_csv_stream(stream, "x.csv", len(table))
    assert not stream.closed


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ("pixels", "test.csv, line 1: there is no column 'emotion'"),
        ("emotion,Usage", "test.csv, line 1: there is no column 'pixels'"),
        ("Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,"
         "unknown,NF", "test.csv is the file of votes of FER+"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["zip", "folder"])
def test_a_folder_with_an_incomplete_table_says_what_it_lacks(forms, tmp_path, form, header, what):
    inside = {"test.csv": f"{header}\n1,2\n".encode(), "README.txt": b"hello"}
    error = refusal(getattr(forms, form)(tmp_path / "source", inside))
    assert what in str(error)


@pytest.mark.parametrize(
    "name", [b"fer\xff\xfe.zip", b"fer\x1b[31m\n.zip", "fer\u202e.zip".encode()]
)
def test_a_name_that_cannot_be_printed(forms, files, faces, tmp_path, capsys, name: bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    got = load(forms.zip(path, files))
    assert got.sha256 == load(path).sha256 == faces.sha256
    assert got.source.isprintable()
    got.source.encode()
    main(["data", "info", str(path)])
    assert "\x1b" not in capsys.readouterr().out


def test_names_of_images_that_are_no_utf_8(forms, files, faces, tmp_path) -> None:
    folder = forms.folder(tmp_path / "x", files)
    old = folder / "train/sad/Training_0.png"
    old.rename(folder / "train/sad" / os.fsdecode(b"Training_\xff.png"))
    (folder / "train/sad" / os.fsdecode(b"\xff.txt")).touch()
    got = load(folder)
    assert got.sha256 == load(folder).sha256
    assert len(got) == len(faces)
    "\n".join([*got.ids, *got.notes]).encode()


def test_an_empty_image_is_said(forms, files, tmp_path) -> None:
    folder = forms.folder(tmp_path / "x", {**files, "train/sad/Training_9.png": b""})
    assert "the file is empty" in str(refusal(folder))


def test_marks_of_windows_downloads_are_ignored(forms, files, faces, tmp_path) -> None:
    marks = {"train/sad/Training_0.png:Zone.Identifier": b"[ZoneTransfer]"}
    assert (
        load(forms.folder(tmp_path / "x", {**files, **marks}), cache=False).sha256 == faces.sha256
    )


VOTES = "Usage,Image name," + ",".join(COLUMNS) + "\nTraining,fer0000000.png,4,0,0,1,3,2,0,0,0,0\n"


def test_packed_votes_are_refused_and_the_fix_unpacks_them(forms, tmp_path) -> None:
    path = tmp_path / "fer2013new.csv.gz"
    path.write_bytes(gzip.compress(VOTES.encode()))
    with pytest.raises(DataError, match="is packed with gzip") as caught:
        read_votes(path)
    assert len(read_votes(run_command(caught.value)).votes) == 1
    for content, what in (
        (zipfile_of(forms, tmp_path), "is a zip, not the votes"),
        (b"<!doctype html>", "is a web page"),
        (b"", "the header is not that of FER+"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=what):
            read_votes(path)


def zipfile_of(forms, folder: Path) -> bytes:
    return forms.zip(folder / "votes.zip", {"fer2013new.csv": VOTES.encode()}).read_bytes()


def test_a_zip_in_a_zip_is_unzipped_by_its_fix(forms, files, faces, tmp_path) -> None:
    inner = forms.zip(tmp_path / "inner.zip", files).read_bytes()
    outer = forms.zip(tmp_path / "outer.zip", {"x/inner.zip": inner})
    error = refusal(outer)
    assert error.fix == "unzip it and give x/inner.zip"
    shutil.unpack_archive(outer, tmp_path / "out")
    given = tmp_path / "out" / error.fix.removeprefix("unzip it and give ")
    assert load(given, cache=False).sha256 == faces.sha256
