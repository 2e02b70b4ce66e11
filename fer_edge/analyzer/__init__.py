"""From photographs to answers: :class:`FaceAnalyzer`, and the pictures that a command was given."""

from __future__ import annotations

from fer_edge.analyzer.analyzer import Analysis, Face, FaceAnalyzer
from fer_edge.analyzer.sources import find_pictures

__all__ = ["Analysis", "Face", "FaceAnalyzer", "find_pictures"]
