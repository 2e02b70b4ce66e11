"""The seven expressions of FER2013, in the order of its label ids 0..6.

Every array, table, manifest and engine of this package uses this order.
"""

from __future__ import annotations

__all__ = ["ALIASES", "EMOTIONS", "emotion_id"]

EMOTIONS: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""The names of FER2013's classes, in the order of the logits of a network that learnt them."""

ALIASES: dict[str, str] = {
    "anger": "angry",
    "disgusted": "disgust",
    "afraid": "fear",
    "fearful": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "contempt": "",  # known from FER+ and AffectNet, not one of the seven: never accepted silently
}
"""Other common folder names. An empty value marks a class that FER2013 does not have."""

_IDS = {name: i for i, name in enumerate(EMOTIONS)}
_IDS.update({alias: _IDS[name] for alias, name in ALIASES.items() if name})


def emotion_id(name: str) -> int | None:
    """Return the label id of an emotion's name or alias (any case), or None if it is not one."""
    return _IDS.get(name.strip().lower())
