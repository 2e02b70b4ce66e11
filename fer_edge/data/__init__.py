"""FER2013 in any of its usual file formats, and the splits and sets made from it.

>>> from fer_edge.data import load
>>> load("synthetic:700").images.shape
(700, 48, 48)
"""

from __future__ import annotations

from fer_edge.data.calibration import (
    CalibrationRecipe,
    CalibrationSet,
    load_calibration_recipe,
    select_calibration,
)
from fer_edge.data.dataset import FerDataset, duplicate_mask
from fer_edge.data.fer2013 import load, resolve_source
from fer_edge.data.resplit import Resplit
from fer_edge.data.resplitting import apply_resplit, resplit_as_recorded
from fer_edge.data.splits import Split

__all__ = [
    "CalibrationRecipe",
    "CalibrationSet",
    "FerDataset",
    "Resplit",
    "Split",
    "apply_resplit",
    "duplicate_mask",
    "load",
    "load_calibration_recipe",
    "resolve_source",
    "resplit_as_recorded",
    "select_calibration",
]
