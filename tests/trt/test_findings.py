"""The table of faults in engines/README.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_fault_of_the_table_has_a_test() -> None:
    text = (ROOT / "engines" / "README.md").read_text(encoding="utf-8")
    table = text.partition("| finding | now | test |\n")[2].partition("\n\n")[0]
    rows = table.splitlines()[1:]
    assert len(rows) >= 16
    for row in rows:
        named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", row)
        assert named, row
        for file, test in named:
            defined = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", defined, re.MULTILINE), f"{file}::{test}"
