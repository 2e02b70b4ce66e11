"""``fer-edge data info`` and ``fer-edge data audit``."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from fer_edge.cli import main
from fer_edge.data import load
from fer_edge.emotions import EMOTIONS
from fer_edge.report import training_display
from fer_edge.runs.folder import RunFolder

TINY = (
    "--epochs", "1", "--set", "model.options.widths=[8, 16]",
    "--set", "model.options.blocks=[1, 1]", "--set", "optim.batch_size=32",
)  # fmt: skip


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(["data", *arguments])
    return capsys.readouterr().out


def test_info_as_a_table_names_splits_classes_digest_and_synthetic(capsys) -> None:
    out = run(capsys, "info", "synthetic:70")
    for word in ("train", "public", "private", *EMOTIONS, "sha256 ", "(synthetic faces)", "mean"):
        assert word in out


def test_info_as_json(capsys) -> None:
    content = json.loads(run(capsys, "info", "synthetic:70", "--format", "json"))
    assert content["n"] == 70
    assert content["synthetic"] is True
    assert content["splits"]["train"]["counts"] == dict.fromkeys(EMOTIONS, 8)
    assert len(content["sha256"]) == 64
    assert 0 < content["pixels"]["mean"] < 1


def test_info_as_csv_has_rows_alone_on_stdout(capsys) -> None:
    rows = list(csv.DictReader(io.StringIO(run(capsys, "info", "synthetic:70", "--format", "csv"))))
    assert [row["split"] for row in rows] == ["train", "public", "private"]
    assert rows[0]["images"] == "56"


def test_info_as_markdown(capsys) -> None:
    out = run(capsys, "info", "synthetic:70", "--format", "markdown")
    assert out.startswith("**synthetic:70:0 (synthetic faces): 70 images**")
    assert "| train | 56 |" in out
    assert "- sha256 " in out


@pytest.mark.parametrize("fmt", ["table", "json", "csv", "markdown"])
def test_audit_in_every_format(capsys, fmt: str) -> None:
    out = run(capsys, "audit", "synthetic:70", "--format", fmt)
    assert "distinct" in out
    if fmt == "json":
        assert json.loads(out)["rows"][0]["images"] == 56


def test_the_environment_names_the_source(capsys, monkeypatch) -> None:
    monkeypatch.setenv("FER_EDGE_DATA", "synthetic:77")
    assert json.loads(run(capsys, "info", "--format", "json"))["n"] == 77


def test_without_a_source_it_says_how_to_get_one(capsys, monkeypatch) -> None:
    monkeypatch.delenv("FER_EDGE_DATA", raising=False)
    with pytest.raises(SystemExit) as stop:
        main(["data", "info"])
    assert stop.value.code == 2
    assert "--data synthetic" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["data", "--help"], ["data", "info", "-h"]])
def test_help_ends_with_an_example(capsys, arguments: list[str]) -> None:
    main(arguments)
    assert "Example:" in capsys.readouterr().out


def test_without_public_train_names_split_and_the_command_of_the_fix_trains(
    capsys, monkeypatch, tmp_path
) -> None:
    """``train.csv`` of the contest has no column Usage: all of it is TRAIN."""
    path = tmp_path / "train.csv"
    faces = load("synthetic:160", cache=False)
    rows = [
        f"{label},{' '.join(map(str, image.reshape(-1).tolist()))}"
        for image, label in zip(faces.images, faces.labels)
    ]
    path.write_text("\n".join(["emotion,pixels", *rows]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FER_EDGE_DATA", str(path))
    monkeypatch.setattr(training_display, "draw_histories", lambda histories, path: path.touch())
    with pytest.raises(SystemExit) as stop:
        main(["train", *TINY])
    assert stop.value.code == 2
    found = re.search(r"fix: .*: (fer-edge train --split \S+)", capsys.readouterr().err)
    assert found
    main([*found[1].split()[1:], *TINY, "--name", "split"])
    assert RunFolder(Path("runs/split")).info().dataset.resplit.name == "80/10/10"
