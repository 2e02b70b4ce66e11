"""The script of `make test-aarch64`: what it compares and how it ends. The script itself is slow.

``FER_EDGE_AARCH64=1`` runs it here, too.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PATH = Path(__file__).with_name("check.py")


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("aarch64_check", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def logits(*labels: int) -> np.ndarray:
    return np.eye(7, dtype=np.float32)[list(labels)]


def test_one_label_that_differs_is_a_failure(script: Any) -> None:
    ours = {"fp32": logits(1, 2, 3), "int8": logits(1, 2, 3)}
    near = {"fp32": logits(1, 2, 3) + np.float32(1e-6), "int8": logits(1, 2, 3) * 2}
    assert "3 labels equal" in script.compare(ours, near)
    with pytest.raises(script.StepError, match="int8: 1 of 3 labels differ"):
        script.compare(ours, {**near, "int8": logits(1, 2, 4)})
    with pytest.raises(script.StepError, match="3 of 3 labels differ"):
        script.compare(ours, {**near, "int8": ours["int8"] + np.float32("nan")})


def test_values_are_found_anywhere_in_the_answer_of_a_command(script: Any) -> None:
    assert script.found('{"a": [{"label": "sad"}, {"label": "happy"}]}', "label") == [
        "sad",
        "happy",
    ]
    assert script.found('{"label": "sad"}\n{"label": "fear"}\n', "label") == ["sad", "fear"]
    assert script.found('{"flips": 0, "x": {"flips": {"n": 1}}}', "flips") == [0]


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (["ok", "ok"], 0),
        (["ok", "skipped"], 0),
        (["ok", "FAILED", "ok"], 1),
        (["FAILED", "missing"], 5),
    ],
)
def test_the_exit_code_is_the_worst_rows(script: Any, statuses: list[str], code: int) -> None:
    rows = [script.Row("step", status, 0.0, "") for status in statuses]
    assert script.exit_code(rows) == code


def test_a_step_that_fails_is_a_row_and_ends_what_depends_on_it(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(check: Any) -> str:
        raise RuntimeError("surprise")

    def missing(check: Any) -> str:
        raise script.MissingError("apt-get install qemu-user-static")

    ran: list[str] = []
    steps = (
        ("first", broken, False),
        ("second", missing, True),
        ("third", lambda check: ran.append("third") or "", False),
    )
    monkeypatch.setattr(script, "STEPS", steps)
    assert script.main(["--cache", str(tmp_path)]) == 5
    table = capsys.readouterr().out
    assert "RuntimeError: surprise" in table
    assert "apt-get install qemu-user-static" in table
    assert not ran


def test_without_root_or_a_tool_it_says_what_is_missing(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = script.Check(tmp_path / "root", tmp_path / "work")
    monkeypatch.setattr(script.os, "geteuid", lambda: 1000)
    assert not check.step("tools", script.tools)
    monkeypatch.setattr(script.os, "geteuid", lambda: 0)
    monkeypatch.setattr(script.shutil, "which", lambda tool: None)
    assert not check.step("tools", script.tools)
    assert [row.status for row in check.rows] == ["missing", "missing"]
    assert "sudo make test-aarch64" in check.rows[0].found
    assert "debootstrap" in check.rows[1].found
    assert "g++-aarch64-linux-gnu" in check.rows[1].found


@pytest.mark.slow
def test_on_aarch64(script: Any) -> None:
    if os.environ.get("FER_EDGE_AARCH64") != "1":
        pytest.skip("FER_EDGE_AARCH64=1 runs it (make test-aarch64): it takes minutes")
    assert script.main([]) == 0
