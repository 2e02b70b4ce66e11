"""The demo is the user's own commands in a row, printed before they run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fer_edge.bundle import Bundle


@pytest.mark.slow
def test_the_demo_ends_in_a_table_and_a_bundle(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "fer_edge", "demo", "--data", "synthetic:640", "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    shown = re.findall(r"^\$ fer-edge (\w+)", result.stderr, re.MULTILINE)
    assert shown == ["train", "build", "build", "build", "bench"]
    for engine in ("pytorch", "onnxruntime", "openvino"):
        assert engine in result.stdout
    assert "synthetic" in result.stdout.lower()
    (bundle,) = (tmp_path / "demo").glob("*/bundle")
    assert Bundle.open(bundle).manifest.synthetic
