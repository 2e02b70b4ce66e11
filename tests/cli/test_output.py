"""Rows print the same content in every format."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from fer_edge.cli.shared.output import print_json, print_rows

ROWS: list[dict[str, Any]] = [
    {"backend": "onnxruntime", "top1": "67.96", "p99 ms": None, "note": "a|b, c"},
    {"backend": "openvino", "top1": "67.87", "p99 ms": "0.310", "note": ""},
]


def test_json_is_the_rows(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, "json")
    assert json.loads(capsys.readouterr().out) == ROWS


def test_csv_reads_back(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, "csv")
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert read == [{k: "" if v is None else v for k, v in row.items()} for row in ROWS]


def test_markdown_escapes_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(ROWS, "markdown", title="T", caption="c")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "**T**"
    assert lines[2] == "| backend | top1 | p99 ms | note |"
    assert lines[4] == "| onnxruntime | 67.96 | n/a | a\\|b, c |"
    assert lines[-1] == "c"


def test_a_redirected_table_is_not_cut_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([{"note": "x" * 150, "p50 ms": "1"}], "table")
    assert "x" * 150 in capsys.readouterr().out


def test_no_rows_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([], "json")
    assert json.loads(capsys.readouterr().out) == []


def test_json_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"top1": float("nan")})
