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
    tally = fuzz(KINDS[name](tmp_path / "kind"), SECONDS)
    assert tally.failures == []
    assert tally.read, "no mutant was read: the seed of this kind is not valid"
