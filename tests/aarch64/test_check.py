"""The script of `make test-aarch64`: what it compares and how it ends. The script itself is slow.

``FER_EDGE_AARCH64=1`` runs it here, too.
"""

from __future__ import annotations

import fcntl
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aarch64 import check as script
from aarch64 import packages, root
from aarch64.board import write_board
from aarch64.commands import compare, found
from aarch64.services import compare_lines
from aarch64.table import Check, NotRunError, Row, Step, StepError, exit_code

from fer_edge.cpu import cpu_features


def logits(*labels: int) -> np.ndarray:
    return np.eye(7, dtype=np.float32)[list(labels)]


def test_one_label_that_differs_is_a_failure() -> None:
    ours = {"fp32": logits(1, 2, 3), "int8": logits(1, 2, 3)}
    near = {"fp32": logits(1, 2, 3) + np.float32(1e-6), "int8": logits(1, 2, 3) * 2}
    assert "3 labels equal" in compare(ours, near)
    with pytest.raises(StepError, match="int8: 1 of 3 labels differ"):
        compare(ours, {**near, "int8": logits(1, 2, 4)})
    with pytest.raises(StepError, match="3 of 3 labels differ"):
        compare(ours, {**near, "int8": ours["int8"] + np.float32("nan")})


def test_values_are_found_anywhere_in_the_answer_of_a_command() -> None:
    assert found('{"a": [{"label": "sad"}, {"label": "happy"}]}', "label") == ["sad", "happy"]
    assert found('{"label": "sad"}\n{"label": "fear"}\n', "label") == ["sad", "fear"]
    assert found('{"flips": 0, "x": {"flips": {"n": 1}}}', "flips") == [0]


def lines(*faces: tuple[str, float, float]) -> list[dict[str, Any]]:
    seen = [
        {"answer": answer, "box": [10 + x, 20, 110, 120], "probabilities": {"sad": p}}
        for answer, x, p in faces
    ]
    start = {"event": "start", "detector": "haar", "provider": "CPU"}
    return [start, {"frame": 0, "faces": seen}, {"event": "stop", "ended": "end"}]


SAD, HAPPY = ("sad", 0, 0.6), ("happy", 0, 0.1)


def test_a_face_elsewhere_or_with_another_answer_is_a_failure() -> None:
    ours = lines(SAD, HAPPY)
    assert "2 faces, answers equal; boxes within 0.0" in compare_lines(ours, lines(SAD, HAPPY))
    for theirs, words in (
        (lines(("fear", 0, 0.6), HAPPY), "frame 0: here sad, there fear"),
        (lines(SAD), "faces in each frame"),
        (lines(("sad", 1, 0.6), HAPPY), "a box differs by 1"),
        (lines(("sad", 0, 0.55), HAPPY), "a probability by 0.05"),
        (lines(), "faces in each frame"),
        (lines(SAD, HAPPY)[:-1], "not the summary"),
    ):
        with pytest.raises(StepError, match=words):
            compare_lines(ours, theirs)


def test_a_near_tie_may_change_in_fp16_alone() -> None:
    ours = np.array([[1.0, 1.01], [0.0, 2.0]], np.float32)
    theirs = ours + np.array([[0.02, 0.0], [0.0, 0.0]], np.float32)
    assert "(1 near ties differ)" in compare({"fp16": ours}, {"fp16": theirs})
    for precision, logits in (("int8", theirs), ("fp32", theirs), ("fp16", theirs[:, ::-1])):
        with pytest.raises(StepError, match="labels differ"):
            compare({precision: ours}, {precision: logits})


# Steps and the table


@pytest.mark.parametrize(
    ("states", "code"),
    [
        (["ok", "ok"], 0),
        (["ok", "not run"], 0),
        (["ok", "FAILED", "ok"], 1),
        (["FAILED", "missing"], 5),
    ],
)
def test_the_exit_code_is_the_worst_rows(states: list[str], code: int) -> None:
    assert exit_code([Row("step", state, 0.0, "") for state in states]) == code


def test_each_step_is_a_line_also_if_it_fails_or_cannot_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(check: Check) -> str:
        raise RuntimeError("surprise")

    def without(check: Check) -> str:
        raise NotRunError("no systemd")

    ran: list[str] = []
    steps = (
        Step("first", broken),
        Step("second", lambda check: ran.append("second") or "x", ("first",)),
        Step("third", lambda check: ran.append("third") or "y"),
        Step("fourth", without, ("third",)),
    )
    monkeypatch.setattr(script, "STEPS", steps)
    assert script.main(["--cache", str(tmp_path)]) == 1
    rows = [line for line in capsys.readouterr().out.splitlines() if "|" in line][2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [(row[0], row[1], row[3]) for row in cells] == [
        ("first", "FAILED", "RuntimeError: surprise"),
        ("second", "not run", "needs: first"),
        ("third", "ok", "y"),
        ("fourth", "not run", "no systemd"),
    ]
    assert ran == ["third"]


def test_every_step_needs_only_steps_before_it() -> None:
    names = [step.name for step in script.STEPS]
    assert len(set(names)) == len(names)
    for i, step in enumerate(script.STEPS):
        assert set(step.needs) <= set(names[:i]), step.name


def test_two_checks_do_not_share_a_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert script.main(["--cache", str(tmp_path)]) == 5
    assert "another check uses" in capsys.readouterr().err


def test_without_root_or_a_tool_it_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, step = Check(tmp_path), Step("tools", root.tools)
    monkeypatch.setattr(root.os, "geteuid", lambda: 1000)
    check.run(step)
    monkeypatch.setattr(root.os, "geteuid", lambda: 0)
    monkeypatch.setattr(root.shutil, "which", lambda tool: None)
    check.run(step)
    assert [row.state for row in check.rows] == ["missing", "missing"]
    assert "sudo make test-aarch64" in check.rows[0].found
    assert "debootstrap" in check.rows[1].found
    assert "g++-aarch64-linux-gnu" in check.rows[1].found


# The root


def fake_run(words: Any, environment: Any) -> str:
    """Stand in for debootstrap and dpkg-deb: a root of two files."""
    if words[0] == "debootstrap":
        (Path(words[-2]) / "usr/bin").mkdir(parents=True)
        (Path(words[-2]) / "usr/bin/tool").write_text("program")
        (Path(words[-2]) / "var").mkdir()
        (Path(words[-2]) / "sys").mkdir()
        (Path(words[-2]) / "proc").symlink_to("/proc")
        (Path(words[-2]) / "var/log").write_text("x")
    return ""


def test_a_root_that_is_not_whole_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = tmp_path / "root", tmp_path / "root.json"
    monkeypatch.setattr(root, "run", fake_run)
    assert root.why_not_whole(folder, record, "a") == "there was none"
    root.make_root(folder, record, "a")
    assert root.why_not_whole(folder, record, "a") is None
    # What runs there writes into other folders, and Python its bytecode.
    (folder / "var/log").write_text("more")
    (folder / "usr/bin/tool.pyc").touch()
    assert root.why_not_whole(folder, record, "a") is None
    assert root.why_not_whole(folder, record, "b") == "the list of packages has changed"
    (folder / "usr/bin/tool").write_text("half")
    assert "1 files were missing or changed, such as usr/bin/tool" in str(
        root.why_not_whole(folder, record, "a")
    )
    (folder / "usr/bin/tool").unlink()
    assert "usr/bin/tool" in str(root.why_not_whole(folder, record, "a"))
    root.make_root(folder, record, "a")
    assert root.why_not_whole(folder, record, "a") is None
    assert not (folder / "proc").is_symlink()
    (folder / "proc").rmdir()
    assert root.why_not_whole(folder, record, "a") == "proc or sys is no folder"
    (folder / "proc").mkdir()
    record.write_text("{")
    assert root.why_not_whole(folder, record, "a") == "root.json cannot be read"
    record.unlink()
    assert root.why_not_whole(folder, record, "a") == "the root was not complete"


def test_the_old_root_stays_until_the_new_one_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, record = tmp_path / "root", tmp_path / "root.json"
    monkeypatch.setattr(root, "run", fake_run)
    root.make_root(folder, record, "a")

    def interrupted(words: Any, environment: Any) -> str:
        fake_run(words, environment)
        raise StepError("no network")

    monkeypatch.setattr(root, "run", interrupted)
    with pytest.raises(StepError):
        root.make_root(folder, record, "b")
    assert root.why_not_whole(folder, record, "a") is None
    # What the interrupted one left does not disturb the next one.
    monkeypatch.setattr(root, "run", fake_run)
    root.make_root(folder, record, "b")
    assert root.why_not_whole(folder, record, "b") is None


def test_programs_there_see_the_cpu_that_qemu_shows(tmp_path: Path) -> None:
    write_board(tmp_path, 2)
    assert cpu_features(tmp_path / "cpuinfo") == {"asimd", "asimddp"}
    cpu = tmp_path / "sys/devices/system/cpu"
    assert (cpu / "possible").read_text() == "0-1\n"
    assert sorted(path.name for path in cpu.glob("cpu?")) == ["cpu0", "cpu1"]


# The wheels


def make_wheel(path: Path, needs: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fer_edge-1.dist-info/METADATA", f"Name: x\nRequires-Dist: {needs}\n")


def test_wheels_are_downloaded_once_until_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Check(tmp_path)
    (check.work / "wheels").mkdir(parents=True)
    ours = check.work / "wheels/fer_edge-1-py3-none-any.whl"
    make_wheel(ours, "numpy")
    calls: list[list[str]] = []

    def download(self: Check, *words: object, **env: str) -> str:
        calls.append([str(word) for word in words])
        folder = Path(calls[-1][calls[-1].index("-d") + 1])
        (folder / "numpy-2-any.whl").write_text("numpy")
        (folder / ours.name).write_text("a copy")
        if "broken" in calls[-1]:
            raise StepError("no network")
        return ""

    monkeypatch.setattr(Check, "here", download)
    monkeypatch.setattr(packages, "there", lambda *words: "3.11\n")
    assert packages.download(check, "base", ((ours,),)) == "1 for aarch64, downloaded now"
    assert packages.download(check, "base", ((ours,),)) == "1 for aarch64, from the cache"
    assert (check.work / "wheels/numpy-2-any.whl").read_text() == "numpy"
    assert packages.our_wheel(check) == ours
    assert packages.requirements(ours) == ["Requires-Dist: numpy"]
    with pytest.raises(StepError):
        packages.download(check, "base", ((ours,), ("broken",)))
    assert "now" in packages.download(check, "base", ((ours,),)), "half of them are not all"
    make_wheel(ours, "numpy>=2")
    assert "now" in packages.download(check, "base", ((ours,),))
    assert len(calls) == 5


def test_an_environment_is_made_again_for_other_packages_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = Check(tmp_path)
    (check.work / "wheels").mkdir(parents=True)
    (check.root / "opt/x").mkdir(parents=True)
    ours = check.work / "wheels/fer_edge-1-py3-none-any.whl"
    make_wheel(ours, "numpy")
    calls: list[str] = []
    monkeypatch.setattr(
        packages, "there", lambda check, *words: calls.append(" ".join(map(str, words)))
    )

    def install() -> str:
        calls.clear()
        packages.install_into(check, Path("/opt/x"), ("x.whl",))
        return "; ".join(calls)

    assert "-m venv" in install()
    assert not install()
    with zipfile.ZipFile(ours, "a") as archive:
        archive.writestr("fer_edge/new.py", "")
    assert "--force-reinstall" in install()
    assert not install()
    (check.work / "wheels/numpy-3.whl").touch()
    assert "-m venv" in install()
    stamp = json.loads((check.root / "opt/x/complete.json").read_text())
    assert "numpy-3.whl" in stamp["others"][0]


@pytest.mark.aarch64
def test_on_aarch64() -> None:
    if os.environ.get("FER_EDGE_AARCH64") != "1":
        pytest.skip("FER_EDGE_AARCH64=1 runs it (make test-aarch64): it takes minutes")
    assert script.main([]) == 0
