"""``fer-edge build`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec
from fer_edge.models.weights import save_weights
from fer_edge.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = ModelSpec("compact", {"widths": [16, 16], "blocks": [1, 1]})
    model = build_model(spec)
    torch.nn.init.normal_(model.head.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    save_weights(path, model.eval(), spec, Preprocessing(), {"dataset": {"synthetic": True}})
    return path


def run(*arguments: str) -> int:
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


FORM = ("--data", "synthetic:700", "--target", "onnxruntime")
SMALL = ("--data", "synthetic:700", "--calibration", "stratified-128", "--target", "onnxruntime")


def test_json_on_stdout_and_the_rest_on_stderr(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    arguments = ("build", str(weights), "-o", str(out), *SMALL, "--no-speed", "--format", "json")
    assert run(*arguments) == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert content["use"] == "int8"
    assert content["passed"] is True
    assert content["verified"]["int8"]["n"] == 70
    assert 0 <= content["verified"]["int8"]["engine"]["top1"] <= 1
    assert content["seconds"]["calibrate"] > 0
    assert "next: fer-edge bench" in captured.err
    Bundle.open(out)


@pytest.mark.parametrize("form", ["table", "csv", "markdown"])
def test_other_forms(
    form: str, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("build", str(weights), "-o", str(tmp_path / "b"), *FORM, "--format", form)
    assert run(*arguments, "--precision", "fp16") == 0
    text = capsys.readouterr().out
    assert "fp16" in text
    assert "passed" in text


def test_without_verification(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("build", str(weights), "-o", str(tmp_path / "b"), *SMALL, "--no-verify")
    assert run(*arguments, "--method", "entropy") == 0
    assert "not verified" in capsys.readouterr().err
    calibration = Bundle.open(tmp_path / "b").manifest.calibration
    assert calibration is not None
    assert calibration["method"] == "entropy"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere", "--data", "synthetic:700"), "ONNX file 'nowhere'"),
        (("--target", "orin"), "unknown target 'orin'"),
        (("--calibration", "stratifed-128", "--data", "synthetic:700"), "stratified-128"),
        (("--exclude", "stem", "--data", "synthetic:700"), "unknown node 'stem'"),
    ],
)
def test_mistakes_end_in_one_line_and_a_fix(
    arguments: tuple[str, ...],
    says: str,
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = () if arguments[0] == "nowhere" else (str(weights),)
    target = () if "--target" in arguments else ("--target", "onnxruntime")
    out = tmp_path / "b"
    code = run("build", *source, *arguments, *target, "-o", str(out), "--no-verify")
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert "error: " in captured.err
    assert "fix: " in captured.err
    assert not out.exists()


def test_a_failed_gate_is_exit_code_3(
    weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fer_edge.measure import proof
    from fer_edge.measure.latency import LatencySamples

    slow = {"int8": LatencySamples((np.full(9, 2),)), "fp32": LatencySamples((np.full(9, 1),))}
    monkeypatch.setattr(proof, "time_backends", lambda *engines, **options: slow)
    assert run("build", str(weights), "-o", str(tmp_path / "b"), *SMALL) == 3
    captured = capsys.readouterr()
    assert "0.50x the speed of fp32" in captured.err
    assert "fp32 instead" in captured.err
    assert "fp32 for onnxruntime" in captured.out


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "--help") == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    assert "fer-edge build --precision int8 --data fer2013.zip" in text
