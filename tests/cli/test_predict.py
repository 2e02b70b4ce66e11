"""``fer-edge predict``: files and folders in, one row a face out."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_bundle import golden_images
from fixtures_detector import FakeDetector, photo_of
from PIL import Image

from fer_edge import EMOTIONS
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.cli import main
from fer_edge.faces import detect


def rows_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = 0
    try:
        main(["predict", *map(str, arguments)])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    (folder / "more").mkdir(parents=True)
    for i, image in enumerate(golden_images(3)[:, 0]):
        Image.fromarray(image).save(folder / ("more" if i == 2 else "") / f"{i}.png")
    (folder / "readme.txt").write_text("not an image, and not taken for one")
    return folder


def test_json(tiny_bundle: Bundle, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, faces, "--bundle", tiny_bundle.path, "--format", "json")
    rows = rows_of(out)
    assert code == 0
    assert [Path(row["image"]).name for row in rows] == ["0.png", "1.png", "2.png"]
    for row in rows:
        assert row["label"] in EMOTIONS
        assert row["confidence"] == max(row[name] for name in EMOTIONS)
        assert sum(row[name] for name in EMOTIONS) == pytest.approx(1, abs=1e-5)
        assert row["latency_ms"] > 0
    assert "onnxruntime int8 (CPUExecutionProvider), threads 1" in err
    assert "synthetic" in err


@pytest.mark.parametrize("fmt", ["table", "csv", "markdown"])
def test_formats(
    tiny_bundle: Bundle, faces: Path, capsys: pytest.CaptureFixture[str], fmt: str
) -> None:
    code, out, _ = run(
        capsys, faces / "0.png", "--bundle", tiny_bundle.path, "--format", fmt,
        "--backend", "openvino", "--precision", "fp32",
    )  # fmt: skip
    assert code == 0
    for name in ("image", "label", "confidence", *EMOTIONS):
        assert name in out
    if fmt == "csv":
        (row,) = csv.DictReader(io.StringIO(out))
        assert row["label"] in EMOTIONS


def test_abstaining(tiny_bundle: Bundle, faces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (faces, "--bundle", tiny_bundle.path, "--format", "json")
    rows = rows_of(run(capsys, *arguments)[1])
    assert [row["confident"] for row in rows] == [None] * 3
    code, _, err = run(capsys, *arguments, "--abstain")
    assert (code, "fer-edge confidence" in err) == (2, True)

    between = float(np.median([row["confidence"] for row in rows]))
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.set(card={"confidence": {"abstain": {"threshold": between}}})
    plain = rows_of(run(capsys, *arguments)[1])
    assert [row["confident"] for row in plain] == [row["confidence"] >= between for row in rows]
    assert [row["label"] for row in plain] == [row["label"] for row in rows]
    abstained = rows_of(run(capsys, *arguments, "--abstain")[1])
    for before, after in zip(plain, abstained, strict=True):
        assert after["label"] == (before["label"] if before["confident"] else "uncertain")
        assert after["confidence"] == before["confidence"]
    assert [row["confident"] for row in abstained].count(True) == 2
    _, out, _ = run(capsys, faces, "--bundle", tiny_bundle.path, "--abstain")
    assert "uncertain" in out
    assert " yes " in out


def test_bad_files_are_named_and_good_ones_shown(
    tiny_bundle: Bundle, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    code, out, err = run(
        capsys, tmp_path / "none.jpg", faces / "0.png", tmp_path / "bad.png",
        "--bundle", tiny_bundle.path, "--format", "csv",
    )  # fmt: skip
    assert code == 2
    assert len(list(csv.DictReader(io.StringIO(out)))) == 1
    assert "none.jpg" in err
    assert "bad.png is not an image" in err
    assert "Traceback" not in err


def test_mistakes(
    tiny_bundle: Bundle,
    faces: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    no_pretrained: Path,
) -> None:
    (tmp_path / "empty").mkdir()
    bundle = ("--bundle", tiny_bundle.path)
    code, _, err = run(capsys, tmp_path / "empty", *bundle)
    assert (code, "has no image" in err) == (2, True)
    code, _, err = run(capsys, faces, *bundle, "--backend", "openvin")
    assert (code, "did you mean 'openvino'" in err) == (2, True)
    code, _, err = run(capsys, faces, *bundle, "--precision", "fp16")
    assert (code, "fer-edge build" in err) == (2, True)
    code, _, err = run(capsys, faces, "--bundle", tmp_path / "none")
    assert code == 2
    assert run(capsys)[0] == 2
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, faces)
    assert (code, "no pretrained bundle" in err, "name a bundle" in err) == (2, True, True)
    path = tiny_bundle.path / "model.fp32.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))
    code, out, err = run(capsys, faces, *bundle)
    assert (code, out) == (6, "")
    assert "model.fp32.onnx" in err


def test_a_folder_as_people_have_it(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    (folder / "__MACOSX").mkdir(parents=True)
    picture = Image.fromarray(golden_images(1)[0, 0])
    picture.save(folder / "face.jfif", format="JPEG")
    (folder / "._face.jpg").write_bytes(b"\0\5\26\7")
    (folder / "__MACOSX" / "face.jpg").write_bytes(b"")
    (folder / "note.txt").write_text("x")
    (folder / "photo.heic").write_bytes(b"x")
    words = ("predict", str(folder), "--bundle", str(tiny_bundle.path), "--format", "json")
    main(list(words))
    out, err = capsys.readouterr()
    assert [Path(row["image"]).name for row in rows_of(out)] == ["face.jfif"]
    assert "not read in" in err
    assert "photo.heic (pip install pillow-heif to read it) and 1 more" in err
    with pytest.raises(SystemExit) as stop:
        main(["predict", "", "--bundle", str(tiny_bundle.path)])
    assert stop.value.code == 2
    assert "path is empty" in capsys.readouterr().err


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a detector the default that needs no package."""
    row = detect.DetectorRow(f"{FakeDetector.__module__}:FakeDetector", (), "pip install nothing")
    monkeypatch.setitem(detect.DETECTORS, "fake", row)
    monkeypatch.setattr(detect, "DEFAULT", "fake")


@pytest.fixture
def no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "_is_installed", lambda package: False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    faces = golden_images(4)[:, 0]
    for name, corners in {
        "two.png": [(10, 20), (100, 60)],
        "cut.png": [(20, 100), (270, 30)],
        "none.png": [],
        "more/two.png": [(150, 10), (40, 90)],
    }.items():
        Image.fromarray(photo_of(faces, corners)).save(folder / name)
    return folder


def test_faces_in_photographs(
    finder: None, tiny_bundle: Bundle, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = ("--bundle", tiny_bundle.path)
    code, out, err = run(capsys, photos, *bundle, "--format", "json")
    rows = rows_of(out)
    assert code == 0
    assert "note:" not in err
    found = [(Path(row["image"]).name, row["face"], row["problem"]) for row in rows]
    assert found == [
        ("cut.png", 1, "cut by the border"),
        ("cut.png", 2, None),
        ("two.png", 1, None),
        ("two.png", 2, None),
        ("none.png", 0, "no face"),
        ("two.png", 1, None),
        ("two.png", 2, None),
    ]
    for row in rows:
        assert (row["label"] in EMOTIONS) == (row["problem"] is None)
        assert (row["confidence"] is None) == (row["problem"] is not None)
    assert [row["label"] for row in rows if row["problem"]] == ["unclear", "no face"]
    assert rows[2]["box"] == [150, 10, 198, 58]
    every = rows_of(run(capsys, photos, *bundle, "--format", "json", "--every-face")[1])
    assert every[0]["problem"] == "cut by the border"
    assert every[0]["label"] in EMOTIONS
    # The rows of one format are those of another, and the table has them all.
    table = list(csv.DictReader(io.StringIO(run(capsys, photos, *bundle, "--format", "csv")[1])))
    assert [row["label"] for row in table] == [row["label"] for row in rows]
    assert [row["left"] for row in table] == [
        str(row["box"][0]) if row["box"] else "" for row in rows
    ]
    _, out, _ = run(capsys, photos, *bundle)
    for word in ("no face", "unclear", "cut by the border", "150 10 198 58"):
        assert word in out


def test_its_own_rows_are_boxes(
    finder: None,
    tiny_bundle: Bundle,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What predict printed, with the boxes corrected by hand, is what --boxes reads."""
    bundle = ("--bundle", tiny_bundle.path)
    for fmt in ("json", "csv"):
        _, out, _ = run(capsys, photos, *bundle, "--format", fmt, "--every-face")
        (tmp_path / "boxes").write_text(out)
        code, again, _ = run(
            capsys, photos, *bundle, "--boxes", tmp_path / "boxes", "--format", "json"
        )
        assert code == 0
        rows = rows_of(again)
        assert [row["problem"] for row in rows] == [None] * 4 + ["no face"] + [None] * 2
    (tmp_path / "boxes").write_text("image,left,top,right,bottom\nother.png,1,2,3,4\n")
    code, out, err = run(capsys, photos / "two.png", *bundle, "--boxes", tmp_path / "boxes")
    assert (code, out) == (2, "")
    assert "has no box for it" in err


def test_without_a_detector_a_picture_is_one_face_and_it_is_said(
    no_detector: None, tiny_bundle: Bundle, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (photos, "--bundle", tiny_bundle.path, "--format", "json")
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert detect.INSTALL in err
    assert [row["box"] for row in rows_of(out)] == [None] * 4
    code, same, err = run(capsys, *arguments, "--no-detect")
    assert "note: no face detector" not in err
    assert [row["label"] for row in rows_of(same)] == [row["label"] for row in rows_of(out)]
    code, out, err = run(capsys, *arguments, "--detector", "blazeface")
    assert (code, out) == (5, "")
    assert detect.INSTALL in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--detector", "nobody"), "nobody"),
        (("--detector", "haar", "--no-detect"), "exclude one another"),
        (("--detector-model", "x.onnx"), "needs --detector"),
        (("--boxes", "none.csv"), "none.csv cannot be read: No such file"),
    ],
)
def test_wrong_options(
    words: tuple[str, ...],
    message: str,
    tiny_bundle: Bundle,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, out, err = run(capsys, photos, "--bundle", tiny_bundle.path, *words)
    assert (code, out) == (2, "")
    assert message in err
    assert "fix:" in err


def test_patterns_stdin_and_paths_that_are_none(
    finder: None,
    tiny_bundle: Bundle,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ("--bundle", tiny_bundle.path, "--format", "json")
    _, out, _ = run(capsys, f"{photos}/**/t*.png", *options)
    assert [Path(row["image"]).parent.name for row in rows_of(out)] == ["more"] * 2 + ["photos"] * 2
    content = (photos / "two.png").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
    _, out, _ = run(capsys, "-", *options)
    assert [row["image"] for row in rows_of(out)] == ["-", "-"]
    for name in (f"{tmp_path}/*.gif", "x" * 400, str(tmp_path / "none.png")):
        code, out, err = run(capsys, name, *options)
        assert (code, out) == (2, "")
        assert "error:" in err
    # A name with a bracket is a name, where there is such a file.
    (tmp_path / "a[1].png").write_bytes(content)
    assert len(rows_of(run(capsys, tmp_path / "a[1].png", *options)[1])) == 2


def test_annotated_pictures(
    finder: None,
    tiny_bundle: Bundle,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    bundle = ("--bundle", tiny_bundle.path)
    code, _, _ = run(capsys, photos, *bundle, "--annotate", photos)
    assert code == 0
    assert {path: path.read_bytes() for path in photos.rglob("*.png")} == before
    drawn = sorted(path.name for path in photos.glob("*.faces.jpg"))
    assert drawn == ["cut.faces.jpg", "none.faces.jpg", "two-2.faces.jpg", "two.faces.jpg"]
    with Image.open(photos / "two.faces.jpg") as image:
        pixels = np.asarray(image).astype(int)
    scale = pixels.shape[1] / 300
    green = (pixels[:, :, 1] > 150) & (pixels[:, :, 0] < 90) & (pixels[:, :, 2] < 90)
    # The frame of the first face of more/two.png, and no green in the middle between the two.
    assert green[int(12 * scale) : int(56 * scale), int(149 * scale) : int(153 * scale)].any()
    assert not green[int(62 * scale) : int(70 * scale), int(110 * scale) : int(130 * scale)].any()
    (tmp_path / "file").write_text("x")
    code, _, err = run(capsys, photos, *bundle, "--annotate", tmp_path / "file")
    assert code == 2
    assert "Traceback" not in err


def test_rows_come_before_the_last_picture_is_read(
    finder: None,
    tiny_bundle: Bundle,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fer_edge.analyzer import FaceAnalyzer

    printed: list[str] = []
    stream = FaceAnalyzer.stream

    def watched(*arguments: Any, **named: Any) -> Any:
        for answer in stream(*arguments, **named):
            printed.append(capsys.readouterr().out)
            yield answer

    monkeypatch.setattr(FaceAnalyzer, "stream", watched)
    run(capsys, photos, "--bundle", tiny_bundle.path, "--format", "json")
    assert len(rows_of(printed[1])) == 2


def test_one_bad_file_of_many(
    finder: None, tiny_bundle: Bundle, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(30))
    code, out, err = run(capsys, photos, "--bundle", tiny_bundle.path, "--format", "json")
    assert code == 2
    assert len(rows_of(out)) == 7
    assert "bad.png" in err
    assert "1 of 5 pictures could not be used" in err


def test_bars(
    finder: None,
    tiny_bundle: Bundle,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rich.console import Console

    from fer_edge.cli import predict
    from fer_edge.cli.shared import output
    from fer_edge.report.annotate import bar

    assert bar(0, 4) == "    "
    assert bar(1, 4) == "████"
    assert bar(0.5, 4) == "██  "
    assert bar(0.28, 4) == "█▏  "
    screen = Console(force_terminal=True, width=160, file=io.StringIO())
    for module in (output, predict):
        monkeypatch.setattr(module, "out", screen)
    run(capsys, photos, "--bundle", tiny_bundle.path)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "█" in shown
    assert "no face" in shown
