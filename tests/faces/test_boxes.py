"""Boxes of one's own: CSV and JSON lines, and what is wrong with a file of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.errors import UsageError
from fer_edge.faces.boxes import read_boxes


def test_both_forms(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "image,left,top,right,bottom,more\nd/a.jpg,1,2,31,42.5,x\nd/a.jpg,5,5,9,9,\nb.jpg,,,,,\n"
    )
    (tmp_path / "a.jsonl").write_text(
        '{"image": "d/a.jpg", "box": [1, 2, 31, 42.5], "label": "sad"}\n\n'
        '{"image": "d/a.jpg", "box": [5, 5, 9, 9]}\n{"image": "b.jpg", "box": null}\n'
    )
    for name in ("a.csv", "a.jsonl"):
        boxes = read_boxes(tmp_path / name)
        assert boxes.of("d/a.jpg") == [(1, 2, 31, 42.5), (5, 5, 9, 9)]
        assert boxes.of("elsewhere/a.jpg") == boxes.of("d/a.jpg")
        assert boxes.of("b.jpg") == []
        with pytest.raises(UsageError, match=r"c\.jpg") as raised:
            boxes.of("c.jpg")
        assert "image,left,top,right,bottom" in str(raised.value.fix)


def test_two_pictures_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,left,top,right,bottom\nd/a.jpg,1,2,3,4\ne/a.jpg,1,2,3,5")
    boxes = read_boxes(tmp_path / "a.csv")
    assert boxes.of("e/a.jpg") == [(1, 2, 3, 5)]
    with pytest.raises(UsageError, match="2 pictures of this name"):
        boxes.of("a.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column"),
        (b"image,left,top,right\na,1,2,3", "no column bottom"),
        (b"image,left,top,right,bottom\n", "no boxes"),
        (b"image,left,top,right,bottom\na,1,2,x,4", "line 2: a box is four numbers"),
        (b"image,left,top,right,bottom\na,1,2,3", "four numbers"),
        (b"image,left,top,right,bottom\na,5,2,3,4", "is empty"),
        (b"image,left,top,right,bottom\na,1,2,nan,4", "line 2"),
        (b"image,left,top,right,bottom\na,1,2,inf,4", "line 2"),
        (b"image,left,top,right,bottom\na,1,2,1e300,4", "an edge at 1e.300"),
        (b"image,left,top,right,bottom\na,-2000001,2,3,4", "1,000,000 pixels"),
        (b"image,left,left,top,right,bottom\na,1,2,3,4,5", "column left twice"),
        (b'{"image": "a", "box": [1, 2, 3]}', "line 1"),
        (b'{"image": 1, "box": [1, 2, 3, 4]}', "line 1"),
        (b'{"box": [1, 2, 3, 4]}', "line 1"),
        (b'{"image": "a", "box": [1, 2, 3, 4]}\n[', "line 2 is not JSON"),
        (b'{"a":' * 100_000, "not JSON"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_files_that_are_wrong(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "boxes").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_boxes(tmp_path / "boxes")


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "none", "No such file"),
        (tmp_path / ("x" * 300), "too long"),
    ):
        with pytest.raises(UsageError, match=reason):
            read_boxes(path)


@settings(max_examples=60)
@given(
    st.binary(max_size=80)
    | st.text(max_size=80).map(lambda t: ("{" + t).encode("utf-8", "replace"))
)
def test_any_bytes_are_boxes_or_a_usage_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("boxes") / "b"
    path.write_bytes(content)
    with pytest.raises(UsageError):
        read_boxes(path)
