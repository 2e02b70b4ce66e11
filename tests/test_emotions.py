"""The label order is FER2013's, and aliases lead to it."""

from __future__ import annotations

import pytest

from fer_edge.emotions import ALIASES, EMOTIONS, emotion_id


def test_the_order_is_fer2013s_label_ids() -> None:
    assert EMOTIONS == ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")


@pytest.mark.parametrize(
    ("name", "label"), [("Anger", 0), (" happiness ", 3), ("FEARFUL", 2), ("neutral", 6)]
)
def test_aliases(name: str, label: int) -> None:
    assert emotion_id(name) == label


@pytest.mark.parametrize("name", ["contempt", "", "smile"])
def test_what_is_not_one_of_the_seven_is_none(name: str) -> None:
    assert emotion_id(name) is None


def test_every_alias_leads_to_an_emotion_or_is_marked_as_none() -> None:
    assert {target for target in ALIASES.values() if target} <= set(EMOTIONS)
