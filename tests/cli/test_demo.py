"""The demo is the user's own commands in a row, printed before they run."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest

from fer_edge import cli
from fer_edge.bundle import Bundle
from fer_edge.cli import demo
from fer_edge.measure.latency import LatencyProtocol


@pytest.mark.slow
def test_the_demo_ends_in_a_table_and_a_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command of the demo runs; the network is small, and the timing is cut short."""
    small = ("--set", "model.options.widths=[16, 16, 32, 32]")
    as_shown = demo._run

    def run(*words: str) -> None:
        as_shown(*words, *(small if words[0] == "train" else ()))

    monkeypatch.setattr(demo, "_run", run)
    quick, gate = LatencyProtocol.for_quick(), LatencyProtocol.for_gate()
    short = {"warmup_s": 0.0, "measure_s": 0.02}
    monkeypatch.setattr(
        LatencyProtocol,
        "for_quick",
        lambda pace_hz=None: replace(quick, pace_hz=pace_hz, repeats=1, **short),
    )
    monkeypatch.setattr(LatencyProtocol, "for_gate", lambda: replace(gate, **short))
    monkeypatch.chdir(tmp_path)
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        cli.main(["demo", "--data", "synthetic:640", "--epochs", "1"])
    shown = re.findall(r"^\$ fer-edge (\w+)", err.getvalue(), re.MULTILINE)
    assert shown == ["train", "build", "build", "build", "bench"]
    for engine in ("pytorch", "onnxruntime", "openvino"):
        assert re.search(rf"{engine} +fp32 +ok", out.getvalue()), out.getvalue()
    assert "synthetic" in out.getvalue().lower()
    (path,) = (tmp_path / "demo").glob("*/bundle")
    bundle = Bundle.open(path)
    assert bundle.manifest.synthetic
    gates = {gate.key for gate in bundle.manifest.gates}
    assert {("fp16", "", ""), ("int8", "onnxruntime", ""), ("int8", "openvino", "")} <= gates


def test_the_package_runs_as_a_module() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "fer_edge", "demo", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "fer-edge demo" in shown
