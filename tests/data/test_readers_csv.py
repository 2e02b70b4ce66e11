"""fer2013.csv and icml_face_data.csv, and every way in which they can be broken."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.data import Split, load
from fer_edge.data.readers_csv import read_csv_stream
from fer_edge.errors import DataError

PIXELS = " ".join(["7"] * 2304)


def read(text: str | bytes, name: str = "x.csv"):
    content = text.encode() if isinstance(text, str) else text
    return read_csv_stream(io.BytesIO(content), name, len(content))


@pytest.mark.parametrize("quote", ['"', ""])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("header", ["emotion,pixels,Usage", "emotion, pixels, Usage"])
def test_every_dialect_gives_the_same_rows(forms, quote, newline, bom, header) -> None:
    faces = forms.faces()
    text = forms.csv_text(faces, quote=quote, newline=newline, header=header)
    got = read(bom + text.encode())
    np.testing.assert_array_equal(got.images, faces.images)
    np.testing.assert_array_equal(got.labels, faces.labels)
    np.testing.assert_array_equal(got.split, faces.split)
    assert got.ids[0] == "row-000001"


def test_columns_may_stand_in_any_order(forms) -> None:
    got = read(f"Usage,emotion,pixels\nPrivateTest,3,{PIXELS}\n\n")
    assert (got.split[0], got.labels[0]) == (Split.PRIVATE, 3)
    assert got.images.min() == got.images.max() == 7


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (f"0,{PIXELS[:-2]},Training", "2,303 pixels instead of 2,304"),
        (f"0,{PIXELS} 7,Training", "2,305 pixels"),
        ("0,,Training", "0 pixels"),
        (f"0,{PIXELS[:-1]}256,Training", "pixel '256'"),
        (f"0,{PIXELS[:-1]}-1,Training", "pixel '-1'"),
        (f"0,{PIXELS[:-1]}x,Training", "pixel 'x'"),
        (f"0,{PIXELS[:-1]}1.5,Training", "pixel '1.5'"),
        (f"7,{PIXELS},Training", "label is '7'"),
        (f"happy,{PIXELS},Training", "label is 'happy'"),
        (f",{PIXELS},Training", "label is ''"),
        (f"0,{PIXELS},Test", "Usage is 'Test'"),
        (f"0,{PIXELS}", "2 cells"),
        (f'0,"{PIXELS},Training', "unexpected end of data"),
    ],
)
def test_a_bad_row_is_named_by_file_and_line(tmp_path, refused, row: str, what: str) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_text(f"emotion,pixels,Usage\n0,{PIXELS},Training\n{row}\n")
    message = refused(path)
    assert what in message
    assert f"{path}, line " in message
    if "unexpected end" not in what:
        assert "line 3" in message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is empty"),
        ("\n", "no column 'emotion' in the header (it is empty)"),
        ("emotion,pixels\n", "has no images"),
        ("pixels,Usage\n", "no column 'emotion' in the header ('pixels', 'usage')"),
        ("emotion,pixels,Usage\n", "has no images"),
        ("\x01", "no column"),
        ("\x00\x01", "fer2013.csv"),  # Python 3.10 says "line contains NUL"
    ],
)
def test_a_file_that_is_no_fer2013(tmp_path, refused, text: str, what: str) -> None:
    path = tmp_path / "fer2013.csv"
    path.write_text(text)
    assert what in refused(path)


def test_the_csv_in_a_zip_and_in_a_folder_is_the_csv(forms, tmp_path, own_cache) -> None:
    text = forms.csv_text(forms.faces()).encode()
    alone = forms.folder(tmp_path / "a", {"fer2013.csv": text}) / "fer2013.csv"
    zipped = forms.zip(tmp_path / "b.zip", {"challenge/icml_face_data.csv": text, "test.csv": b""})
    folder = forms.folder(tmp_path / "c", {"x/fer2013.csv": text, "x/README": b"hello"})
    digests = {load(source).sha256 for source in (alone, zipped, folder)}
    assert len(digests) == 1


def test_an_error_in_a_zipped_csv_names_the_zip_and_the_member(forms, tmp_path, refused) -> None:
    path = forms.zip(tmp_path / "b.zip", {"fer2013.csv": b"emotion,pixels,Usage\n9,1,Training\n"})
    assert f"{path}: fer2013.csv, line 2: the label is '9'" in refused(path)


def test_progress_counts_bytes_to_the_end(forms) -> None:
    text = forms.csv_text(forms.faces()).encode()
    seen: list[tuple[int, int]] = []
    read_csv_stream(
        io.BytesIO(text), "x", len(text), advance=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (len(text), len(text))


@settings(max_examples=150)
@given(st.text(alphabet='01234567,"\n\r Traingemotpxls\x00é', max_size=300))
def test_any_text_is_read_or_refused_never_a_crash(text: str) -> None:
    with pytest.raises(DataError):
        read("emotion,pixels,Usage\n" + text)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.sampled_from(Split), st.integers(0, 2**32 - 1)),
        min_size=1,
        max_size=6,
    )
)
def test_rows_survive_the_trip(rows) -> None:
    names = {Split.TRAIN: "Training", Split.PUBLIC: "PublicTest", Split.PRIVATE: "PrivateTest"}
    images = [
        np.random.default_rng(seed).integers(0, 256, 2304, dtype=np.uint8) for _, _, seed in rows
    ]
    lines = [
        f'{label},"{" ".join(map(str, image.tolist()))}",{names[split]}'
        for (label, split, _), image in zip(rows, images)
    ]
    got = read("\n".join(["emotion,pixels,Usage", *lines]))
    # Rows are ordered by split; inside one, by their place in the file.
    order = sorted(range(len(rows)), key=lambda i: (rows[i][1], i))
    assert got.labels.tolist() == [rows[i][0] for i in order]
    assert got.split.tolist() == [rows[i][1] for i in order]
    np.testing.assert_array_equal(got.images.reshape(len(rows), -1), [images[i] for i in order])
