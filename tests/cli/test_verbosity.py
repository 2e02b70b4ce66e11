"""``-q`` and ``-v``: what is shown of progress, notes and the log, and where."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import click
import pytest
from PIL import Image
from rich.console import Console

from fer_edge.cli import main
from fer_edge.cli.shared import output
from fer_edge.progress import SILENT, logger

DATA = ("data", "info", "synthetic:70")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Stands in for a terminal on stderr."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, legacy_windows=False)
    monkeypatch.setattr(output, "log", console)
    return screen


def test_a_silent_reporter_takes_everything() -> None:
    SILENT.note("text")
    SILENT.progress("stage", 1, 2)
    SILENT.stage("stage")(2, 2)


def test_progress_is_drawn_on_a_terminal(terminal: io.StringIO) -> None:
    main([*DATA])
    assert "reading images" in terminal.getvalue()


@pytest.mark.parametrize("words", [("-q", *DATA), (*DATA, "-q"), ("--quiet", *DATA)])
def test_quiet_hides_progress_and_notes(
    words: tuple[str, ...], terminal: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words, "--format", "csv"])
    assert terminal.getvalue() == ""
    result = capsys.readouterr().out
    assert result.startswith("split,")
    main([*DATA, "--format", "csv"])
    assert "sha256" in terminal.getvalue(), "only the quiet command was quiet"
    assert capsys.readouterr().out == result


@pytest.mark.parametrize("words", [("inspect",), ("predict", "FACE", "--no-detect")])
def test_quiet_hides_which_bundle_is_used(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (48, 48), 99).save(tmp_path / "face.png")
    line = [word.replace("FACE", str(tmp_path / "face.png")) for word in words]
    main([*line, "-q", "--format", "json"])
    assert capsys.readouterr().err == ""
    main([*line, "--format", "json"])
    assert "no bundle named: " in capsys.readouterr().err


def test_quiet_keeps_errors(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["-q", "data", "info", "nowhere.zip"])
    said = capsys.readouterr().err
    assert "error: nowhere.zip does not exist" in said
    assert "fix: " in said


@pytest.mark.parametrize("words", [("-v", *DATA), (*DATA, "-v"), ("-v", *DATA, "-v")])
def test_verbose_shows_the_log_once(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    main([*words])
    said = capsys.readouterr().err
    assert said.count(" cache: wrote ") == 1
    assert logger.level == logging.NOTSET
    assert [type(each) for each in logger.handlers] == [logging.NullHandler]
    main([*DATA])
    assert "cache: " not in capsys.readouterr().err


@pytest.mark.parametrize(("count", "level"), [(1, logging.INFO), (2, logging.DEBUG)])
def test_debug_needs_two(count: int, level: int) -> None:
    with click.Context(click.Command("x")) as context:
        output.show_log(context, count)
        assert logger.level == level
    assert logger.level == logging.NOTSET


def test_a_wrong_command_line_leaves_no_log() -> None:
    before = list(logger.handlers), logger.level
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(["models", "-v", "--no-such-option"])
    assert (list(logger.handlers), logger.level) == before
