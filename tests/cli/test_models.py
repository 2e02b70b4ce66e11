"""``fer-edge models`` lists every network with what it costs."""

from __future__ import annotations

import json

import pytest

from fer_edge.cli import main
from fer_edge.models import MODELS


def test_json_has_a_row_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "--format", "json"])
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == MODELS.keys()
    compact = rows["compact"]
    assert list(compact)[:6] == ["name", "params", "mmac", "input", "source", "reported"]
    assert compact["params"] == 742_919
    assert compact["mmac"] == 31.2
    assert compact["input"] == "1x48x48"
    for row in rows.values():
        assert row["reported"] is None or 0 < row["reported"] < 1


@pytest.mark.parametrize("fmt", ["table", "markdown", "csv"])
def test_every_form_names_every_model(fmt: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["models", "--format", fmt])
    captured = capsys.readouterr()
    assert all(name in captured.out for name in MODELS)
    assert captured.err == ""
