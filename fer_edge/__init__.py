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
    from fer_edge.analyzer import Analysis, Face, FaceAnalyzer
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle
    from fer_edge.classifier import Classifier, Prediction
    from fer_edge.emotions import EMOTIONS
    from fer_edge.errors import (
        DataError,
        EngineMismatchError,
        FerEdgeError,
        GateError,
        IntegrityError,
        MissingExtraError,
        NumericsError,
        RecipeError,
        UnavailableError,
        UsageError,
    )
    from fer_edge.faces import Detections, Detector, DetectorRow, Picture
    from fer_edge.models import ModelEntry, ModelSpec

# ONNX Runtime 1.32 sends usage data, and its thread for that makes a forked child hang at its exit.
# The library reads this variable when it is imported; 0 allows it again.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "EMOTIONS",
    "Analysis",
    "Backend",
    "Bundle",
    "Classifier",
    "DataError",
    "Detections",
    "Detector",
    "DetectorRow",
    "EngineMismatchError",
    "Face",
    "FaceAnalyzer",
    "FerEdgeError",
    "GateError",
    "IntegrityError",
    "MissingExtraError",
    "ModelEntry",
    "ModelSpec",
    "NumericsError",
    "Picture",
    "Prediction",
    "RecipeError",
    "UnavailableError",
    "UsageError",
    "__version__",
]

_HOMES = {
    "Analysis": "fer_edge.analyzer",
    "Backend": "fer_edge.backends.base",
    "Bundle": "fer_edge.bundle",
    "Classifier": "fer_edge.classifier",
    "DataError": "fer_edge.errors",
    "Detections": "fer_edge.faces",
    "Detector": "fer_edge.faces",
    "DetectorRow": "fer_edge.faces",
    "EMOTIONS": "fer_edge.emotions",
    "EngineMismatchError": "fer_edge.errors",
    "Face": "fer_edge.analyzer",
    "FaceAnalyzer": "fer_edge.analyzer",
    "FerEdgeError": "fer_edge.errors",
    "GateError": "fer_edge.errors",
    "IntegrityError": "fer_edge.errors",
    "MissingExtraError": "fer_edge.errors",
    "ModelEntry": "fer_edge.models",
    "ModelSpec": "fer_edge.models",
    "NumericsError": "fer_edge.errors",
    "Picture": "fer_edge.faces",
    "Prediction": "fer_edge.classifier",
    "RecipeError": "fer_edge.errors",
    "UnavailableError": "fer_edge.errors",
    "UsageError": "fer_edge.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fer_edge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
