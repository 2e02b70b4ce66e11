"""Damaged and hostile archives, arrays and tables: the same data set comes out, or a FerEdgeError.

Never another exception, never more memory than can be valid, and never silently fewer rows.
"""

from __future__ import annotations

import errno
import io
import json
import os
import random
import re
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fixtures_hypothesis import SHARED_FIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.data import Split, cache, containers, load
from fer_edge.data.ferplus.file import COLUMNS, read_votes
from fer_edge.data.readers_csv import read_csv_stream
from fer_edge.data.readers_npz import npz_from_dataset, read_npz
from fer_edge.errors import DataError, FerEdgeError

METHODS = {
    "stored": zipfile.ZIP_STORED,
    "deflate": zipfile.ZIP_DEFLATED,
    "bz2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


@pytest.fixture(scope="module")
def faces(forms):
    return forms.faces()


@pytest.fixture(scope="module")
def files(forms, faces) -> dict[str, bytes]:
    return forms.files(faces)


@pytest.fixture(scope="module")
def packed(files) -> dict[str, bytes]:
    """The same zip, packed by each method."""
    return {name: zipped(files, method) for name, method in METHODS.items()}


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED, **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, **options) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def loaded(path: Path, content: bytes):
    path.write_bytes(content)
    return load(path, cache=False)


def refusal(path: Path, content: bytes) -> DataError:
    with pytest.raises(DataError) as caught:
        loaded(path, content)
    assert str(path) in str(caught.value)
    return caught.value


def patched(content: bytes, local: int, central: int, form: str, value: int) -> bytes:
    """Return a zip with a field of all local and all central headers set."""
    changed = bytearray(content)
    for magic, place in ((b"PK\3\4", local), (b"PK\1\2", central)):
        start = changed.find(magic)
        while start >= 0:
            struct.pack_into(form, changed, start + place, value)
            start = changed.find(magic, start + 4)
    return bytes(changed)


# --- zips -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_packing_is_read(files, faces, tmp_path, method: str) -> None:
    assert loaded(tmp_path / "a.zip", zipped(files, METHODS[method])).sha256 == faces.sha256


@pytest.mark.parametrize("method", METHODS)
def test_damaged_streams_name_the_member(files, tmp_path, method: str) -> None:
    content = bytearray(zipped(files, METHODS[method]))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = archive.infolist()[5]
    start = member.header_offset + 30 + len(member.filename)
    for place in (start + 4, start + member.compress_size // 2, start + member.compress_size - 2):
        damaged = bytearray(content)
        damaged[place] ^= 0x5A
        error = refusal(tmp_path / "a.zip", bytes(damaged))
        assert member.filename in str(error)
        assert error.fix == "download it again"


def test_a_wrong_checksum_names_the_member(files, tmp_path) -> None:
    content = patched(zipped(files), 14, 16, "<I", 12345)
    assert "Bad CRC-32" in str(refusal(tmp_path / "a.zip", content))


@pytest.mark.parametrize("method", [9, 93, 1, 200])
def test_a_method_that_python_lacks_is_said(files, tmp_path, method: int) -> None:
    error = refusal(tmp_path / "a.zip", patched(zipped(files), 8, 10, "<H", method))
    assert "in a way that Python cannot read" in str(error)
    assert "unzip it with another program" in str(error.fix)


def test_zip64_is_read(files, faces, tmp_path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    assert load(path, cache=False).sha256 == faces.sha256


def test_bytes_before_the_zip_are_no_harm(files, faces, tmp_path) -> None:
    assert loaded(tmp_path / "a.exe", b"MZ" + bytes(99) + zipped(files)).sha256 == faces.sha256


def test_members_that_share_their_bytes_are_refused(files, tmp_path) -> None:
    """The bomb of D. Fifield: every entry of the list is the one packed file."""
    one = zipped({"train/angry/0000.png": bytes(3 << 20)}, zipfile.ZIP_DEFLATED)
    start, end = one.index(b"PK\1\2"), one.index(b"PK\5\6")
    entry = one[start:end]
    entries = b"".join(entry.replace(b"0000.png", b"%04d.png" % i) for i in range(400))
    tail = bytearray(one[end:])
    struct.pack_into("<HHI", tail, 8, 400, 400, len(entries))
    error = refusal(tmp_path / "a.zip", one[:start] + entries + bytes(tail))
    assert "more bytes than the zip has" in str(error)


def test_a_zip_that_unpacks_to_many_times_its_size_is_refused(
    files, forms, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(containers, "_SMALL", 1 << 20)
    row = f"0,{'0 ' * 2304},Training\n"
    text = ("emotion,pixels,Usage\n" + row * 900).encode()
    content = zipped({"fer2013.csv": text}, zipfile.ZIP_DEFLATED)
    assert len(content) * 100 < len(text)
    assert "more than 100 times its size" in str(refusal(tmp_path / "a.zip", content))
    own = {
        f"{split}/{name}/{i}.bmp": forms.picture(np.zeros((900, 900), np.uint8), "BMP")
        for split in ("train", "val")
        for name in ("a", "b")
        for i in range(2)
    }
    path = tmp_path / "own.zip"
    path.write_bytes(zipped(own, zipfile.ZIP_DEFLATED))
    with pytest.raises(DataError, match="more than 100 times its size"):
        load(path, classes="own", cache=False)


def test_too_many_members_are_refused(files, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(containers, "MOST_FILES", 20)
    assert "42 members" in str(refusal(tmp_path / "a.zip", zipped(files)))
    folder = tmp_path / "folder"
    with zipfile.ZipFile(io.BytesIO(zipped(files))) as archive:
        archive.extractall(folder)
    with pytest.raises(DataError, match="more than 20 files"):
        load(folder, cache=False)


@pytest.mark.parametrize("wrapper", ["/", "//srv/", "C:\\data\\", "./", "a/./b//"])
def test_absolute_and_odd_names_are_only_names(files, faces, tmp_path, wrapper: str) -> None:
    wrapped = {wrapper + name: content for name, content in files.items()}
    assert loaded(tmp_path / "a.zip", zipped(wrapped)).sha256 == faces.sha256


@pytest.mark.parametrize("name", ["../train/sad/x.png", "train/../../sad/x.png", "..\\x.png"])
def test_names_that_lead_out_are_refused(files, tmp_path, name: str) -> None:
    error = refusal(tmp_path / "a.zip", zipped({**files, name: b"x"}))
    assert "leads out of it" in str(error)
    assert repr(name) in str(error)


def test_a_name_in_bytes_that_are_no_utf_8(files, tmp_path) -> None:
    name = "train/sad/Training_é.png"
    content = zipped({**files, name: files["train/sad/Training_0.png"]})
    error = refusal(tmp_path / "a.zip", content.replace("é".encode(), b"\xff\xfe"))
    assert "damaged" in str(error)


def test_a_nul_in_a_name_ends_it(files, faces, tmp_path) -> None:
    content = zipped(files).replace(b"Training_0.png", b"Training_0.pn\0")
    try:
        got = loaded(tmp_path / "a.zip", content)
    except DataError:
        return
    assert len(got) == len(faces)


def test_a_length_that_hides_members_is_damage(files, tmp_path) -> None:
    """The length of a comment: what follows in the list is skipped as a part of it."""
    content = bytearray(zipped(files))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        hidden = len(archive.infolist()[11].filename) + 46
    start = content.index(b"PK\1\2")
    for _ in range(10):
        start = content.index(b"PK\1\2", start + 4)
    struct.pack_into("<H", content, start + 32, hidden)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.infolist()) == 41
    assert "its list has 41 members" in str(refusal(tmp_path / "a.zip", bytes(content)))


def test_a_folder_entry_with_bytes_is_damage(files, tmp_path) -> None:
    content = zipped(files).replace(b"sad/Training_0.png", b"sad/Training_0.pn/")
    assert "is damaged" in str(refusal(tmp_path / "a.zip", content))


@settings(max_examples=80, suppress_health_check=SHARED_FIXTURE)
@given(data=st.data(), method=st.sampled_from(sorted(METHODS)))
def test_flipped_bytes_of_a_zip_lose_no_row_silently(packed, faces, tmp_path, data, method) -> None:
    content = bytearray(packed[method])
    start = data.draw(st.sampled_from([0, content.index(b"PK\1\2"), content.index(b"PK\5\6")]))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(start, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        got = loaded(tmp_path / "a.zip", bytes(content))
    except FerEdgeError:
        return
    said = any("left out" in note or "ignored" in note for note in got.notes)
    assert got.sha256 == faces.sha256 or said, got.notes


HARMLESS: dict[str, Callable[[dict[str, bytes], random.Random], dict[str, bytes]]] = {
    "wrapped": lambda files, _: {f"archive/FER-2013/{n}": c for n, c in files.items()},
    "windows": lambda files, _: {n.replace("/", "\\"): c for n, c in files.items()},
    "upper": lambda files, _: {
        n.upper()
        .replace("TRAINING_", "Training_")
        .replace("PUBLICTEST_", "PublicTest_")
        .replace("PRIVATETEST_", "PrivateTest_"): c
        for n, c in files.items()
    },
    "split names": lambda files, _: {
        n.replace("train/", "train_set/").replace("test/", "Test Set/"): c for n, c in files.items()
    },
    "aliases": lambda files, _: {
        n.replace("/happy/", "/Happiness/").replace("/fear/", "/fearful/"): c
        for n, c in files.items()
    },
    "foreign": lambda files, r: {
        **files,
        **{
            f"{n.rpartition('/')[0]}/{r.choice(['README', 'Thumbs.db', '._1.png', 'a.txt'])}": b"x"
            for n in r.sample(sorted(files), 3)
        },
    },
    "shuffled": lambda files, r: dict(r.sample(sorted(files.items()), len(files))),
}
HARMFUL: dict[str, Callable[[dict[str, bytes], random.Random], dict[str, bytes]]] = {
    "empty file": lambda files, r: {**files, r.choice(sorted(files)): b""},
    "cut file": lambda files, r: {**files, (n := r.choice(sorted(files))): files[n][:50]},
    "misspelt": lambda files, _: {n.replace("surprise", "suprise"): c for n, c in files.items()},
    "no class": lambda files, r: {n: c for n, c in files.items() if "test/sad" not in n},
    "twice": lambda files, _: {**files, **{f"again/{n}": c for n, c in files.items()}},
    "out": lambda files, r: {**files, f"../{r.choice(sorted(files))}": b""},
    "loose": lambda files, _: {**files, "loose.png": next(iter(files.values()))},
    "other size": lambda files, r: {**files, r.choice(sorted(files)): _picture(47)},
    "same id": lambda files, r: {
        **files,
        r.choice(sorted(files)).replace(".png", ".bmp"): _picture(48),
    },
}


def _picture(size: int) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.zeros((size, size), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@settings(max_examples=40, suppress_health_check=SHARED_FIXTURE)
@given(
    names=st.lists(st.sampled_from(sorted(HARMLESS)), max_size=4, unique=True),
    bad=st.sampled_from(["", *sorted(HARMFUL)]),
    form=st.sampled_from(["zip", "folder"]),
    seed=st.integers(0, 99),
)
def test_trees_in_other_writing_are_the_same_and_broken_ones_are_refused(
    forms, files, faces, tmp_path, names, bad, form, seed
) -> None:
    chance = random.Random(seed)
    changed = dict(files)
    if bad:
        changed = HARMFUL[bad](changed, chance)
    # Backslashes last: the others look for slashes.
    for name in sorted(names, key=lambda name: name == "windows"):
        changed = HARMLESS[name](changed, chance)
    if form == "folder" and any(name.startswith("..") for name in changed):
        form = "zip"  # a folder cannot hold it
    path = tmp_path / form
    if path.is_dir():
        shutil.rmtree(path)
    source = getattr(forms, form)(path, changed)
    if bad:
        with pytest.raises(FerEdgeError, match=re.escape(str(source))):
            load(source, cache=False)
    else:
        assert load(source, cache=False).sha256 == faces.sha256


# --- arrays ---------------------------------------------------------------------------------------


@pytest.fixture
def arrays(faces, tmp_path) -> dict[str, np.ndarray]:
    npz_from_dataset(faces, tmp_path / "made.npz")
    with np.load(tmp_path / "made.npz", allow_pickle=False) as found:
        return dict(found)


def test_arrays_in_other_order_or_packed_are_the_same(arrays, faces, tmp_path) -> None:
    fortran = {**arrays, "images": np.asfortranarray(arrays["images"])}
    for name, save in (("a.npz", np.savez), ("b.npz", np.savez_compressed)):
        save(tmp_path / name, **fortran)
        assert load(tmp_path / name).sha256 == faces.sha256
    shutil.copy(tmp_path / "a.npz", tmp_path / "no suffix")
    assert load(tmp_path / "no suffix").sha256 == faces.sha256


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda a: {**a, "images": a["images"].astype(">u2")}, "'images' must be uint8"),
        (lambda a: {**a, "images": a["images"].astype("f4") / 255}, "'images' must be uint8"),
        (lambda a: {**a, "labels": a["labels"].astype(np.int64)}, "'labels' must be uint8"),
        (lambda a: {**a, "split": a["split"].astype(bool)}, "'split' must be uint8"),
        (lambda a: {**a, "ids": np.array(["a", "b"])}, "'ids' must be uint8"),
        (lambda a: {**a, "images": a["images"][..., None]}, "do not fit together"),
        (lambda a: {**a, "images": a["images"][:-1]}, "do not fit together"),
        (lambda a: {"x_train": a["images"], "y_train": a["labels"]}, "it has no array 'images'"),
        (lambda a: {}, "it has no array 'images'; it has nothing"),
        (lambda a: {**a, "meta": np.frombuffer(b"[]", np.uint8)}, "not a JSON object"),
        (lambda a: {**a, "meta": np.frombuffer(b"[" * 9999, np.uint8)}, "is not JSON"),
        (lambda a: {**a, "meta": np.frombuffer(b'{"schema": 1}', np.uint8)}, "there is no"),
        (lambda a: {**a, "labels": a["labels"] + 7}, "out of range"),
        (lambda a: {**a, "labels": a["labels"][::-1].copy()}, "digest does not fit"),
    ],
)
def test_arrays_of_other_programs_are_refused(arrays, tmp_path, change, what) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **change(arrays))
    with pytest.raises(DataError) as caught:
        load(path)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"notes": 3},
        {"notes": [1]},
        {"schema": "1"},
        {"source": None},
        {"classes": "ab"},
        {"folders": 1},
        {"sha256": None},
    ],
)
def test_a_description_of_wrong_types(arrays, tmp_path, change) -> None:
    meta = {**json.loads(bytes(arrays["meta"])), **change}
    path = tmp_path / "x.npz"
    np.savez(path, **{**arrays, "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)})
    if "source" in change:
        assert load(path).source == "x.npz"
        return
    with pytest.raises(DataError):
        load(path)


def npy(shape: str, kind: str = "|u1", content: bytes = b"x" * 10) -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head + content


@pytest.mark.parametrize(
    "member",
    [
        npy("(1000000000000, 48, 48)"),
        npy("(9223372036854775807, 9223372036854775807)"),
        npy("(-1, -10)"),
        npy("(0, 99999999999)"),
        npy("(10,)", "|O"),
        npy("(10,)", "|V1000000000000"),
        npy("(10,)", "<U2500000000"),
        npy("('a',)"),
        npy("(10,").replace(b"}", b"("),
        b"\x93NUMPY\3\0" + npy("(10,)")[8:],
        b"\x93NUMPY\2\0\xff\xff\xff\x7f" + npy("(10,)")[8:],
        b"\x93NUM",
        b"",
    ],
)
def test_a_header_is_checked_before_memory_is_taken(arrays, tmp_path, member: bytes) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if name != "images"})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("images.npy", member)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match="is not a data set of fer-edge"):
        load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_an_npz_bomb_is_refused(arrays, tmp_path) -> None:
    path = tmp_path / "x.npz"
    many = np.zeros((70_000, 48, 48), np.uint8)
    np.savez_compressed(path, **{**arrays, "images": many})
    with pytest.raises(DataError, match="would unpack to"):
        read_npz(path)


# --- tables ---------------------------------------------------------------------------------------


def test_a_row_without_an_end_is_refused(tmp_path) -> None:
    for text in (
        b"emotion,pixels,Usage\n0," + b"7 " * (3 << 20),
        b"7" * (3 << 20),
        b"emotion,pixels,Usage\n" + b'"\n",' * (1 << 20),
        b"emotion,pixels\n" + b"," * (3 << 20),
    ):
        with pytest.raises(DataError, match=r"characters|field larger"):
            read_csv_stream(io.BytesIO(text), "x.csv", len(text))


@settings(max_examples=40, suppress_health_check=SHARED_FIXTURE)
@given(
    order=st.permutations(["emotion", "pixels", "Usage", "extra"]),
    separator=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]),
    newline=st.sampled_from(["\n", "\r\n", "\n\n"]),
    quote=st.sampled_from(['"', ""]),
    space=st.sampled_from(["", " "]),
    case=st.sampled_from([str.lower, str.upper, str.title]),
)
def test_tables_in_other_writing_are_the_same(
    forms, faces, order, separator, encoding, newline, quote, space, case
) -> None:
    _, *rows = forms.csv_text(faces, quote="").rstrip("\n").split("\n")
    lines = [(separator + space).join(case(name) for name in order)]
    for row in rows:
        named = dict(zip(("emotion", "pixels", "Usage"), row.split(",")), extra="é")
        lines.append((separator + space).join(f"{quote}{named[name]}{quote}" for name in order))
    content = newline.join(lines).encode(encoding)
    got = read_csv_stream(io.BytesIO(content), "x.csv", len(content))
    np.testing.assert_array_equal(got.images, faces.images)
    np.testing.assert_array_equal(got.labels, faces.labels)
    np.testing.assert_array_equal(got.split, faces.split)


@settings(max_examples=80, suppress_health_check=SHARED_FIXTURE)
@given(data=st.data())
def test_damaged_tables_lose_no_row_silently(forms, data) -> None:
    faces = forms.faces(1, splits=(Split.TRAIN,))
    content = bytearray(forms.csv_text(faces).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        # Where rows begin and end, more often than inside the pixels.
        ends = [i for i, byte in enumerate(content) if byte in b'\n",']
        near = ends[data.draw(st.integers(0, len(ends) - 1))] + data.draw(st.integers(-2, 2))
        place = min(max(near, 0), len(content) - 1)
        content[place : place + data.draw(st.integers(0, 1))] = data.draw(st.binary(max_size=2))
    try:
        got = read_csv_stream(io.BytesIO(content), "x.csv", len(content))
    except FerEdgeError:
        return
    assert len(got) == len(faces)


def test_a_row_in_the_line_of_the_header_is_not_lost(forms) -> None:
    """Found by the test above: the newline after the header was missing."""
    text = forms.csv_text(forms.faces(1, splits=(Split.TRAIN,)))
    content = text.replace("\n", "", 1).encode()
    with pytest.raises(FerEdgeError, match="the header and a row of pixels are one line"):
        read_csv_stream(io.BytesIO(content), "x.csv", len(content))


VOTES = "Usage,Image name," + ",".join(COLUMNS) + "\nTraining,fer0000000.png,4,0,0,1,3,2,0,0,0,0\n"


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_votes_in_other_writing(tmp_path, separator: str, encoding: str) -> None:
    path = tmp_path / "fer2013new.csv"
    path.write_bytes(VOTES.replace(",", separator).encode(encoding))
    assert read_votes(path).votes.tolist() == [[4, 0, 0, 1, 3, 2, 0, 0, 0, 0]]


@settings(max_examples=80, suppress_health_check=SHARED_FIXTURE)
@given(data=st.data())
def test_damaged_votes_are_read_or_refused(tmp_path, data) -> None:
    content = bytearray(VOTES.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    path = tmp_path / "votes.csv"
    path.write_bytes(bytes(content))
    try:
        found = read_votes(path)
    except FerEdgeError:
        return
    assert len(found.votes) == 1


# --- the cache ------------------------------------------------------------------------------------


@pytest.fixture
def source(files, tmp_path) -> Path:
    path = tmp_path / "data.zip"
    path.write_bytes(zipped(files))
    return path


def noted(source: Path, faces) -> str:
    got = load(source)
    assert got.sha256 == faces.sha256
    return " ".join(got.notes)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("/proc/cache", "cannot be written"),
        ("/dev/null/cache", "cannot be written"),
        ("/tmp/" + "x" * 300, "cannot be written"),
        ("/" + "y" * 5000, "cannot be written"),
        ("~no-such-user-here/cache", "no cache: "),
    ],
)
def test_a_cache_that_cannot_be_is_a_note(source, faces, monkeypatch, place, what) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", place)
    assert what in noted(source, faces)


@pytest.mark.parametrize("kind", ["folder", "FIFO", "link", "empty"])
def test_something_in_place_of_an_entry_is_a_note(source, faces, own_cache, kind) -> None:
    load(source)
    (entry,) = own_cache.glob("data/*.npz")
    entry.unlink()
    if kind == "folder":
        (entry / "x").mkdir(parents=True)
    elif kind == "FIFO":
        os.mkfifo(entry)
    elif kind == "link":
        entry.symlink_to(entry)
    else:
        entry.touch()
    said = noted(source, faces)
    # Only a regular file is replaced.
    assert ("cannot be written" if kind in {"folder", "FIFO"} else "was rebuilt") in said
    assert not list(own_cache.rglob("*.part*"))


@pytest.mark.parametrize("kind", ["folder", "FIFO"])
def test_something_in_place_of_the_index(source, faces, own_cache, monkeypatch, kind) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", -1)
    load(source)
    (index,) = own_cache.glob("data/index/*")
    index.unlink()
    index.mkdir() if kind == "folder" else os.mkfifo(index)
    assert load(source).sha256 == faces.sha256


def test_a_cache_of_another_user_is_a_note(source, faces, own_cache, monkeypatch) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become a user who may write nothing")
    real = Path.lstat

    def refuse(self):
        if own_cache in self.parents:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return real(self)

    own_cache.mkdir()
    own_cache.chmod(0)
    monkeypatch.setattr(Path, "lstat", refuse)
    monkeypatch.setattr(cache, "npz_from_dataset", lambda dataset, path: path.lstat())
    assert "cannot be written (Permission denied)" in noted(source, faces)


def test_a_full_disk_is_a_note_and_leaves_nothing(source, faces, own_cache) -> None:
    """A limit on the size of files is as a full disk: writing stops in the middle."""
    _, most = limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, most))
    try:
        said = noted(source, faces)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "cannot be written (File too large)" in said
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_a_disk_that_fails_is_said(source, forms, files, tmp_path, monkeypatch) -> None:
    """Reading may fail in the middle, such as on a broken disk or a network that is gone."""
    folder = forms.folder(tmp_path / "folder", files)
    table = tmp_path / "fer2013.csv"
    table.write_text(forms.csv_text(forms.faces(1)))
    votes = tmp_path / "votes.csv"
    votes.write_text(VOTES)

    class Broken(io.FileIO):
        def readinto(self, buffer) -> int:
            raise OSError(errno.EIO, "Input/output error")

    def broken(descriptor: int, mode: str) -> io.BufferedReader:
        return io.BufferedReader(Broken(descriptor, mode))

    monkeypatch.setattr(os, "fdopen", broken)
    for path in (source, folder, table):
        with pytest.raises(DataError, match="Input/output error"):
            load(path, cache=False)
        with pytest.raises(DataError, match="Input/output error"):
            load(path)
    with pytest.raises(DataError, match="Input/output error"):
        read_votes(votes)


# --- everything at once ---------------------------------------------------------------------------


def said(dataset) -> bool:
    words = ("left out", "ignored", "not read")
    return any(word in note for note in dataset.notes for word in words)


@pytest.fixture(scope="module")
def sources(forms, files, tmp_path_factory) -> dict[str, bytes]:
    """One data set of one image per class and split, in each form of one file."""
    few = forms.faces(1)
    path = tmp_path_factory.mktemp("sources") / "a.npz"
    npz_from_dataset(few, path)
    text = forms.csv_text(few)
    return {
        "npz": path.read_bytes(),
        "zip": zipped(forms.files(few)),
        "lzma": zipped(forms.files(few), zipfile.ZIP_LZMA),
        "csv": text.encode(),
        "utf-16": text.encode("utf-16"),
        "csv in zip": zipped({"fer2013.csv": text.encode()}, zipfile.ZIP_DEFLATED),
    }


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Change a file in one to four places, half of them near its end, where zips have lists."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        end = len(changed)
        i = chance.randrange(end) if chance.random() < 0.5 else end - chance.randrange(1, 1200)
        match chance.randrange(5):
            case 0:
                changed[i] = chance.randrange(256)
            case 1:
                del changed[i : i + chance.choice([1, 2, 10, 1000])]
            case 2:
                changed[i:i] = chance.randbytes(chance.choice([1, 2, 9]))
            case 3:
                changed[i : i + 4] = chance.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f"])
            case _:
                changed[i:i] = changed[max(0, i - chance.choice([30, 46, 100])) : i]
    return bytes(changed)


@settings(max_examples=120, suppress_health_check=SHARED_FIXTURE)
@given(
    form=st.sampled_from(["npz", "zip", "lzma", "csv", "utf-16", "csv in zip"]),
    suffix=st.sampled_from(["", ".zip", ".npz", ".csv", ".bin"]),
    seed=st.integers(0, 1 << 30),
)
def test_a_damaged_file_is_refused_or_whole(sources, tmp_path, form, suffix, seed) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(mutate(sources[form], random.Random(seed)))
    try:
        got = load(path, cache=False)
    except FerEdgeError as error:
        reason = str(error)
    else:
        reason = str(path)
        assert len(got) == 21 or said(got)
    assert str(path) in reason


def attack(folder: Path, chance: random.Random) -> bool:
    """Do one thing to a folder that happens to folders; return whether it loses images."""

    def some(kind: str) -> Path:
        found = sorted(p for p in folder.rglob("*") if getattr(p, f"is_{kind}")())
        return chance.choice(found) if found else folder

    names = ["x", "train", "val", "suprise", "angry", ".a.png", "a.txt", "a\\b.png", "\udcff.png"]
    action = chance.randrange(9)
    try:
        match action:
            case 0:
                (moved := some("file")).rename(moved.with_name(chance.choice(names)))
            case 1:
                (moved := some("dir")).rename(moved.with_name(chance.choice(names)))
            case 2:
                target = chance.choice([folder, "/dev/zero", "gone", some("file"), "l.png"])
                (some("dir") / "l.png").symlink_to(target)
            case 3:
                os.mkfifo(some("dir") / "f")
            case 4:
                some("file").write_bytes(chance.choice([b"", b"x", bytes(5 << 20)]))
            case 5:
                name = chance.choice(["a.csv", "fer2013.csv", "README", "x.zip"])
                (some("dir") / name).write_bytes(chance.choice([b"", b"emotion,pixels\n"]))
            case 6:
                shutil.copytree(some("dir"), folder / "copy", symlinks=True)
            case 7:
                (some("dir") / chance.choice(["new", "sad", "y" * 200])).mkdir()
            case _:
                shutil.rmtree(some("dir"))
    except OSError:  # what the file system does not do
        return False
    return action == 8 or action == 0  # a name may take the place of another


@settings(max_examples=40, suppress_health_check=SHARED_FIXTURE)
@given(seed=st.integers(0, 1 << 30))
def test_an_attacked_folder_is_refused_or_whole(forms, tmp_path, seed) -> None:
    chance = random.Random(seed)
    folder = tmp_path / "folder"
    if folder.exists():
        shutil.rmtree(folder)
    forms.folder(folder, forms.files(forms.faces(1)))
    lost = [attack(folder, chance) for _ in range(chance.randint(1, 3))]
    try:
        got = load(folder, cache=False)
    except FerEdgeError as error:
        reason = str(error)
    else:
        reason = str(folder)
        assert len(got) >= 21 or said(got) or any(lost)
    assert str(folder) in reason
