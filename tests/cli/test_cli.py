"""The command line as a whole: lazy, helpful, and never a traceback for a user's mistake."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import fer_edge
from fer_edge import cli
from fer_edge.errors import IntegrityError
from fer_edge.files import read_toml
from fer_edge.version import __version__

ROOT = Path(__file__).resolve().parents[2]


def _run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fer_edge", *args], capture_output=True, text=True, check=False
    )


def test_help_lists_every_command() -> None:
    result = _run("--help")
    assert result.returncode == 0
    for name, (_, line) in cli.COMMANDS.items():
        assert f"  {name} " in result.stdout
        assert line[:40] in result.stdout


def test_the_version_has_one_place() -> None:
    """The package is built with it, and C++ reads it there, too."""
    assert _run("--version").stdout == f"fer-edge, version {__version__}\n"
    pyproject = read_toml(ROOT / "pyproject.toml")
    assert pyproject["tool"]["hatch"]["version"] == {"path": "fer_edge/version.py"}
    assert "version" in pyproject["project"]["dynamic"]
    assert "version.py" in (ROOT / "engines" / "cpp" / "CMakeLists.txt").read_text("utf-8")
    assert fer_edge.__version__ == __version__


def test_an_unknown_command_names_the_nearest() -> None:
    result = _run("biuld")
    assert result.returncode == 2
    assert "did you mean 'build'?" in result.stderr
    assert "Traceback" not in result.stderr


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split("."))


@pytest.mark.parametrize("old", cli.DEPRECATED, ids=" ".join)
def test_a_deprecated_name_does_what_the_new_one_does_and_says_so(
    old: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = cli.DEPRECATED[old]
    name = old[0] if len(old) == 2 else entry.new
    real = importlib.import_module(cli.COMMANDS[name][0]).command
    given: list[dict[str, object]] = []
    monkeypatch.setattr(real, "callback", lambda **options: given.append(options))
    if len(old) == 1:
        runs = [([entry.new], []), ([old[0]], [])]
    else:
        [option] = [one for one in real.params if entry.new in one.opts]
        assert old[1] not in option.opts
        value = "0.5"
        runs = [([name], [entry.new, value]), ([name], [old[1], value])]
        runs.append(([name], [f"{old[1]}={value}"]))
    lines = []
    for command, options in runs:
        cli.main([*command, *options])
        lines.append(capsys.readouterr().err)
    assert given[1:] == given[:1] * (len(runs) - 1)
    assert lines[0] == ""
    for line in lines[1:]:
        assert line.splitlines() == [
            f"deprecated: '{' '.join(old)}' is now '{entry.new}'; "
            f"the old name works until version {entry.removed_in}"
        ]


@pytest.mark.parametrize("old", cli.DEPRECATED, ids=" ".join)
def test_a_deprecated_name_is_hidden_and_goes_in_time(old: tuple[str, ...]) -> None:
    entry = cli.DEPRECATED[old]
    assert _version(entry.since) <= _version(__version__) < _version(entry.removed_in)
    command = [] if len(old) == 1 else [old[0]]
    shown = CliRunner().invoke(cli.group, [*command, "--help"]).output
    assert re.search(rf"(?m)^\s*{re.escape(entry.new)}\b", shown)
    assert not re.search(rf"(?m)^\s*{re.escape(old[-1])}\b", shown)


def test_a_deprecated_name_that_is_a_plain_argument_is_left_alone() -> None:
    assert cli._current_names(["predict", "calibrate", "--target"]) == [
        "predict",
        "calibrate",
        "--target",
    ]
    assert cli._current_names(["confidence", "--", "--target"]) == ["confidence", "--", "--target"]
    assert cli._current_names([]) == []


def test_an_unknown_option_is_usage() -> None:
    result = _run("--no-such-option")
    assert result.returncode == 2
    assert "no-such-option" in result.stderr.lower()


def test_an_error_prints_its_fix_and_exits_with_its_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise IntegrityError("model.onnx is not what the manifest says", fix="copy it again")

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect"])
    assert ended.value.code == 6
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "error: model.onnx is not what the manifest says",
        "fix:   copy it again",
    ]


def test_ctrl_c_ends_in_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def command() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: command)
    with pytest.raises(SystemExit) as ended:
        cli.main(["inspect"])
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = importlib.import_module(cli.COMMANDS[name][0]).command
    assert isinstance(command, click.Command)
    assert "Example:" in (command.help or "")
    assert f"fer-edge {name}" in (command.help or "")
    assert command.help.splitlines()[0].strip().endswith(".")
