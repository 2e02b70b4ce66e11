"""The README says what is so: its commands run as written, and every command is in it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fer_edge import cli
from fer_edge.data import load
from fer_edge.errors import UsageError
from fer_edge.pretrained import pretrained_path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

SHORTER = {
    "train": [
        *("--epochs", "1", "--recipe", "quick"),
        *("--set", "model.options.widths=[32, 32, 64, 96]"),
    ],
    "search": ["--trials", "1", "--epochs", "1", "--recipe", "quick"],
    "bench": ["--quick"],
}
"""Put behind a command so that it ends within seconds; what the README shows comes first.

``train --init`` and ``--teacher`` fit, for all runs are the same small network.
"""

ELSEWHERE = {"demo", "calibrate"}
"""Run by tests/cli/test_demo.py, and on a run with a held-out part by test_run_confidence.py."""


def _ships() -> bool:
    """Whether this checkout holds the pretrained bundle, which some commands need."""
    try:
        return pretrained_path().is_dir()
    except UsageError:
        return False


def _blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _commands() -> list[list[str]]:
    """Return the ``fer-edge`` command lines of the README's shell blocks, in order."""
    lines = "\n".join(_blocks("bash")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("fer-edge ")]


def test_every_command_is_in_the_readme() -> None:
    shown = {words[1] for words in _commands()}
    assert set(cli.COMMANDS) - shown == set()


def test_every_documented_command_exists() -> None:
    mentioned = set(re.findall(r"`fer-edge ([a-z]+)", README)) | {c[1] for c in _commands()}
    assert mentioned <= set(cli.COMMANDS)


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)", README)) <= targets


def test_every_file_named_in_the_documents_exists() -> None:
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (ROOT / target).exists(), f"{document} links to {target}"


@pytest.mark.slow
def test_the_readmes_commands_and_python_run_in_order(tmp_path: Path) -> None:
    """Run them in one folder on a small synthetic set, with only time cut short."""
    Image.fromarray(load("synthetic:70").images[0]).save(tmp_path / "face.jpg")
    tool = Path(sys.executable).with_name("fer-edge")
    assert tool.exists(), "the console script is not installed beside this Python"
    environment = {**os.environ, "FER_EDGE_DATA": "synthetic:640"}
    refused = False
    for words in _commands():
        if words[1] in ELSEWHERE:
            continue
        line = shlex.join(words)
        result = subprocess.run(
            [str(tool), *words[1:], *SHORTER.get(words[1], [])],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in result.stderr, f"{line}\n{result.stderr}"
        if not _ships() and "no pretrained bundle" in result.stderr:
            continue
        # 3 is a gate's verdict: a network of one epoch may well lose it, and says so.
        # 5 is this machine's: a target that needs another one names what is missing.
        refused |= result.returncode == 3
        if refused and "has no int8" in result.stderr:
            continue  # what the gate refused is not there for the commands that follow
        assert result.returncode in {0, 3, 5}, f"{line}\n{result.stderr}"
        if result.returncode:
            assert "error:" in result.stderr, f"{line}\n{result.stderr}"
    blocks = _blocks("python")
    assert blocks
    for block in blocks:
        if "Classifier()" in block and not _ships():
            continue
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True)
