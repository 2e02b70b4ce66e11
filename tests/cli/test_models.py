"""``fer-edge models`` lists every network with what it costs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest

from fer_edge.cli import main
from fer_edge.models import MODELS, ModelSpec


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


@pytest.mark.parametrize("name", MODELS)
def test_the_figures_that_are_written_down_are_those_of_the_network(name: str) -> None:
    from fer_edge.models.profile import count_spec

    entry = MODELS[name]
    written = (entry.parameters, entry.macs)
    # A network under construction may leave them out; then they are counted when asked for.
    assert written in {(None, None), count_spec(ModelSpec(name))}


def test_listing_needs_no_torch(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {name: entry for name, entry in MODELS.items() if entry.parameters is not None}
    monkeypatch.setattr("fer_edge.models.MODELS", known)
    monkeypatch.setitem(sys.modules, "torch", None)  # its import fails
    main(["models", "--format", "json"])
    assert len(json.loads(capsys.readouterr().out)) == len(known)


def test_figures_that_are_not_written_down_are_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = replace(MODELS["mini-xception"], parameters=None, macs=None)
    monkeypatch.setattr("fer_edge.models.MODELS", {"mini-xception": entry})
    main(["models", "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["params"], row["mmac"]) == (56_215, 5.5)
