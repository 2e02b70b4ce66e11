"""`fer-edge verify`: its JSON, its exit codes, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fer_edge import cli
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle
from fer_edge.data import FerDataset
from fer_edge.data.readers_npz import npz_from_dataset

DatasetMaker = Callable[..., FerDataset]


@pytest.fixture
def words(small_dataset: FerDataset, tmp_path: Path, own_bundle: Bundle) -> list[str]:
    path = tmp_path / "small.npz"
    npz_from_dataset(small_dataset, path)
    return ["verify", str(own_bundle.path), "--data", str(path)]


def exit_code(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run as a user does: errors become a line on stderr and an exit code."""
    code = 0
    try:
        cli.main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_on_stdout_alone(words: list[str], own_bundle: Bundle) -> None:
    result = CliRunner().invoke(cli.group, [*words, "--precision", "int8", "--format", "json"])
    assert result.exit_code == 0, result.exception
    content = json.loads(result.stdout)
    assert (content["split"], content["n"], content["passed"]) == ("public", 42, True)
    assert content["reference"]["kind"] == "pytorch"
    assert content["engine"]["precision"] == "int8"
    assert content["engine"]["per_class"]["disgust"]["n"] == 6
    assert content["flips"] == 0
    assert content["mcnemar_p"] == 1.0
    assert "verify.json" in result.stderr.replace("\n", "")
    assert Bundle.open(own_bundle.path).find(path="verify.json")


def test_the_table_names_what_a_person_wants_to_know(words: list[str]) -> None:
    result = CliRunner().invoke(cli.group, words)
    text = " ".join(result.stdout.split())
    for said in (
        "small.npz, public, n = 42",
        "top-1 without TRAIN duplicates (n 35)",
        "recall disgust (n 6)",
        "McNemar p",
        "pytorch",
        "onnxruntime int8",
        "speed not measured",
        "gate: speed not measured",
    ):
        assert said in text, said


@pytest.mark.parametrize("fmt", ["csv", "markdown"])
def test_other_formats(words: list[str], fmt: str) -> None:
    result = CliRunner().invoke(cli.group, [*words, "--format", fmt, "--no-record"])
    assert result.exit_code == 0
    assert "macro-F1" in result.stdout


def test_an_engine_far_off_exits_with_4(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    infer = OnnxRuntimeBackend.infer
    monkeypatch.setattr(OnnxRuntimeBackend, "infer", lambda self, images: infer(self, images) + 1)
    code, out, err = exit_code([*words, "--precision", "fp32", "--format", "json"], capsys)
    assert code == 4
    assert json.loads(out)["passed"] is False
    assert "max |delta logit|" in err
    assert "fix:" in err


def test_an_engine_that_lost_accuracy_exits_with_3(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        OnnxRuntimeBackend,
        "infer",
        lambda self, images: np.eye(7, dtype=np.float32)[[1] * len(images)],
    )
    # The network is random: make it right, so that there is something to lose.
    from fer_edge.backends.pytorch import PyTorchBackend

    calls = iter(range(10_000))
    monkeypatch.setattr(
        PyTorchBackend,
        "infer",
        lambda self, images: np.eye(7, dtype=np.float32)[[next(calls) % 7] * len(images)],
    )
    code, out, err = exit_code([*words, "--precision", "int8"], capsys)
    assert code == 3
    assert "gate: FAILED" in out
    assert "recall of happy (n 6) 100.00% -> 0.00%" in err


def test_only_public_is_recorded_by_default(
    make_dataset: DatasetMaker, tmp_path: Path, own_bundle: Bundle
) -> None:
    path = tmp_path / "all.npz"
    npz_from_dataset(make_dataset(private=14), path)
    words = ["verify", str(own_bundle.path), "--data", str(path)]
    CliRunner().invoke(cli.group, [*words, "--split", "private"])
    assert Bundle.open(own_bundle.path).find(path="verify.json") is None
    CliRunner().invoke(cli.group, [*words, "--split", "test", "--record"])
    bundle = Bundle.open(own_bundle.path)
    content = json.loads(bundle.file(bundle.artifact(path="verify.json")).read_text())
    assert content["verifications"][0]["split"] == "test"
    assert content["verifications"][0]["n"] == 56


def test_save(words: list[str], tmp_path: Path) -> None:
    saved = tmp_path / "out" / "proof.json"
    result = CliRunner().invoke(cli.group, [*words, "--save", str(saved), "--no-record"])
    assert result.exit_code == 0
    assert json.loads(saved.read_text())["n"] == 42


def test_a_split_that_is_not_there(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = exit_code([*words, "--split", "private"], capsys)
    assert code == 2
    assert out == ""
    assert "private" in err


def test_a_precision_that_is_not_there_names_the_build_command(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = exit_code([*words, "--precision", "fp16"], capsys)
    assert code == 2
    assert "fer-edge build" in err


def test_a_flipped_byte_exits_with_6(
    words: list[str], own_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own_bundle.path / "model.fp32.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(bytes(content))
    code, _, err = exit_code(words, capsys)
    assert code == 6
    assert "model.fp32.onnx" in err


def test_help_ends_with_an_example() -> None:
    assert "Example:" in CliRunner().invoke(cli.group, ["verify", "--help"]).stdout
