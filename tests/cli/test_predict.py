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
from PIL import Image

from fer_edge import EMOTIONS
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.cli import main


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
