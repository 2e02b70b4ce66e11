"""What a bundle tells its user about the network: licence, intended use, limits."""

from __future__ import annotations

from typing import Any

__all__ = ["model_card"]


def model_card(*, synthetic: bool) -> dict[str, Any]:
    """Return the card of a network trained by this package."""
    data = (
        "procedurally drawn faces: it proves the tool chain and knows no real face"
        if synthetic
        else "FER2013: images collected from the web, cropped, 48x48 gray, labelled by people who "
        "agree with each other on about two of three"
    )
    return {
        "licence": "Apache-2.0 for code and weights; FER2013's images are for research",
        "intended_use": "research and prototypes that react to the expression shown on a face",
        "limits": [
            f"trained on {data}",
            "it names the expression that people would see, not what a person feels",
            "accuracy differs between emotions (see per-class recall) and between groups of "
            "people, which FER2013 does not label and this package therefore cannot measure",
            "not for decisions about people: hiring, education, policing, health, borders",
        ],
    }
