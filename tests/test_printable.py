"""What is printed from files and names cannot control a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.cli.shared.output import print_rows, print_text
from fer_edge.errors import UsageError
from fer_edge.printable import one_line, printable

HOSTILE = "\x1b]0;title\x07\x9b31m\u202eevil\ud800\x7f\r"


def _controls(text: str) -> list[str]:
    kinds = {"Cc", "Cs", "Zl", "Zp"}
    return [each for each in text if unicodedata.category(each) in kinds and each not in "\n\t"]


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_no_text_keeps_a_control_character(text: str) -> None:
    shown = printable(text)
    assert not _controls(shown)
    assert not _controls(one_line(text))
    assert "\n" not in one_line(text)
    shown.encode("utf-8")
    assert printable(shown) == shown


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_json_keeps_its_meaning(text: str) -> None:
    assert json.loads(printable(json.dumps({text: text}, ensure_ascii=False))) == {text: text}


@pytest.mark.parametrize("text", ["happy", "glücklich 幸せ 😀", "a\tb\n", "e\u0301", "\u200d"])
def test_plain_text_stays(text: str) -> None:
    assert printable(text) == text


def test_an_error_is_one_safe_line() -> None:
    error = UsageError(f"the file {HOSTILE}\nerror: a second line", fix=f"rm {HOSTILE}\n")
    for text in (str(error), str(error.fix)):
        assert not _controls(text)
        assert "\n" not in text
    assert "\\u001b]0;title" in str(error)


@pytest.mark.parametrize("fmt", ["table", "json", "csv", "markdown"])
def test_output_is_safe(fmt: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"name": HOSTILE}], fmt, title=HOSTILE)
    print_text(HOSTILE)
    assert not _controls(capsys.readouterr().out)


def test_an_error_that_quotes_megabytes_is_short() -> None:
    assert one_line("short") == "short"
    text = str(UsageError("first " + "x" * 5_000_000 + " last"))
    assert len(text) < 2000
    assert text.startswith("first xxx")
    assert text.endswith("xxx last")
