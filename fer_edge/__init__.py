"""fer-edge: train, quantise and prove facial-expression engines for the edge.

The names below are the public API. They are resolved on first use, so that
``import fer_edge`` loads neither numpy nor any inference engine.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fer_edge.version import __version__

if TYPE_CHECKING:
    from fer_edge.analyzer import FaceAnalyzer
    from fer_edge.bundle import Bundle
    from fer_edge.classifier import Classifier, Prediction
    from fer_edge.emotions import EMOTIONS
    from fer_edge.errors import FerEdgeError

# ONNX Runtime 1.32 sends usage data, and its thread for that makes a forked child hang at its exit.
# The library reads this variable when it is imported; 0 allows it again.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "EMOTIONS",
    "Bundle",
    "Classifier",
    "FaceAnalyzer",
    "FerEdgeError",
    "Prediction",
    "__version__",
]

_HOMES = {
    "Bundle": "fer_edge.bundle",
    "Classifier": "fer_edge.classifier",
    "EMOTIONS": "fer_edge.emotions",
    "FaceAnalyzer": "fer_edge.analyzer",
    "FerEdgeError": "fer_edge.errors",
    "Prediction": "fer_edge.classifier",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fer_edge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
