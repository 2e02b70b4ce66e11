"""The command line as a whole: lazy, helpful, and never a traceback for a user's mistake."""

from __future__ import annotations

import importlib
import subprocess
import sys

import click
import pytest

from fer_edge import cli
from fer_edge.errors import IntegrityError


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


def test_an_unknown_command_names_the_nearest() -> None:
    result = _run("biuld")
    assert result.returncode == 2
    assert "did you mean 'build'?" in result.stderr
    assert "Traceback" not in result.stderr


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
