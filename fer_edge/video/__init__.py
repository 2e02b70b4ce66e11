"""Faces over time: the frames of a camera or a video, faces followed from frame to frame.

A frame's way: ``frames`` -> ``watch`` (detector, classifier, ``track``, ``smooth``) -> the outputs
``window``, ``film`` and ``timeline``. Reading, the window and the film need OpenCV (the extra
``camera``); ``track`` and ``smooth`` need numpy only.
"""

from __future__ import annotations

from fer_edge.video.smooth import Smoothing
from fer_edge.video.track import Tracker

__all__ = ["Smoothing", "Tracker"]
