"""Options that would change nothing are refused in one line, before anything is made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_edge.build.options import Int8Options
from fer_edge.build.pipeline import build
from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.errors import UsageError
from fer_edge.measure.bench import candidates

CASES = [
    (
        ("build", "GRAPH", "--precision", "fp32", "--exclude", "no-such-node"),
        "--exclude is about INT8, and fp32 was asked for",
    ),
    (
        ("build", "GRAPH", "--precision", "fp16", "--method", "entropy", "--retries", "1"),
        "--method and --retries are about INT8, and fp16 was asked for",
    ),
    (
        ("build", "GRAPH", "--precision", "fp32", "--half", "stem", "--weights", "full"),
        "--half and --weights are about INT8",
    ),
    (
        ("build", "GRAPH", "--no-verify", "--split", "train"),
        "--split has no effect: nothing is judged with --no-verify",
    ),
    (
        ("build", "GRAPH", "--no-verify", "--speed", "--split", "train"),
        "--speed and --split have no effect",
    ),
    (
        ("predict", "FACE", "--no-detect", "--every-face", "--bundle", "BUNDLE"),
        "--every-face has no effect",
    ),
    (
        ("camera", "FACE", "--width", "640", "--fps", "5"),
        "--width and --fps have no effect: only a camera is asked for it",
    ),
    (("report", "BUNDLE", "--threads", "2"), "--threads has no effect: no engine is run"),
    (("bench", "BUNDLE", "--backend", "null", "--data", "synthetic:140"), "the null backend"),
    (
        ("bench", "BUNDLE", "--backend", "pytorch", "--precision", "int8", "--data", "x"),
        "pytorch cannot run the precision int8",
    ),
]


@pytest.mark.parametrize(("words", "says"), CASES, ids=lambda each: str(each)[:60])
def test_it_is_refused(
    words: tuple[str, ...],
    says: str,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / "face.png")
    made = {
        "GRAPH": tiny_bundle.path / "model.fp32.onnx",
        "FACE": tmp_path / "face.png",
        "BUNDLE": tiny_bundle.path,
    }
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main([str(made.get(word, word)) for word in words])
    said = capsys.readouterr()
    assert ended.value.code == 2
    error, fix = said.err.splitlines()[-2:]
    assert error.startswith("error: ")
    assert says in error
    assert fix.startswith("fix:   ")
    assert said.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_the_library_refuses_it_too(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--exclude is about INT8"):
        build(tmp_path / "m.onnx", precision="fp32", int8=Int8Options(exclude=["stem"]))


def test_what_has_an_effect_is_taken(tiny_bundle: Bundle) -> None:
    """Also beside the null backend, and what is off by --no-speed."""
    assert Int8Options().named == []
    assert Int8Options(retries=0, exclude=("a",)).named == ["exclude", "retries"]
    rows = candidates([tiny_bundle], ["null", "onnxruntime"])
    assert {each.row.backend for each in rows} == {"null", "onnxruntime"}
    with pytest.raises(UsageError, match="pytorch cannot run the precision int8"):
        candidates([tiny_bundle], ["pytorch", "onnxruntime"], ["int8"])
