"""A minute of the fuzzing that ``make fuzz`` does for ten (tests/fuzz/fuzz.py)."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import fuzz
from hostile import KINDS

SECONDS = 60 / len(KINDS)


@pytest.mark.fuzz
@pytest.mark.parametrize("name", list(KINDS))
def test_hostile_inputs_are_read_or_refused(name: str, tmp_path: Path) -> None:
    kind = KINDS[name](tmp_path / "kind")
    tally = fuzz(kind, SECONDS)
    assert tally.failures == []
    # The first inputs are always the same: some of them are valid on every machine.
    assert tally.read or not kind.reads, "no mutant was read: the seed of this kind is not valid"
