"""From photographs to answers: find the faces of a picture, cut them out, classify them.

::

    from fer_edge import FaceAnalyzer

    with FaceAnalyzer() as analyze:
        for face in analyze("photo.jpg").faces:
            print(face.box, face.label)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.bundle import Bundle
from fer_edge.classifier import Classifier, Prediction
from fer_edge.errors import FerEdgeError, UsageError
from fer_edge.faces import Picture, PictureSource, face_from_image, picture_from_image
from fer_edge.faces.boxes import Box
from fer_edge.faces.crop import Square, cut, fitted_square, problem_of, square_around
from fer_edge.faces.detect import Detector, default_detector, detector
from fer_edge.faces.reading import name_of_picture
from fer_edge.preprocessing import SIZE

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Analysis", "Face", "FaceAnalyzer"]

_READERS = 2
_AHEAD = 4
"""Pictures that are read ahead, per reading thread."""

_WHOLE = "whole"


@dataclass(frozen=True, slots=True)
class Face:
    """One face of a picture.

    ``box`` is left, top, right, bottom in pixels as the detector, or the caller, gave it, and
    ``score`` the detector's; both are None if the whole picture is the face. ``square`` is what was
    cut out. ``problem`` says why a face is not judged (too small, cut by the border, turned away);
    then ``prediction`` is None, unless the analyzer judges every face.
    """

    box: Box | None
    score: float | None
    square: Square | None
    problem: str | None
    prediction: Prediction | None

    @property
    def label(self) -> str | None:
        """The label, or None for a face that is not judged."""
        return None if self.prediction is None else self.prediction.label


@dataclass(frozen=True, slots=True)
class Analysis:
    """The answer to the picture ``name``: its faces, the most certain first.

    ``faces`` is empty if no face was found. ``error`` says why the picture could not be read; only
    :meth:`FaceAnalyzer.stream` returns such an answer. ``picture`` has the pixels, for drawing.
    """

    name: str
    faces: tuple[Face, ...] = ()
    error: FerEdgeError | None = None
    picture: Picture | None = field(default=None, repr=False, compare=False)


class FaceAnalyzer:
    """A detector and a :class:`~fer_edge.Classifier`.

    ``classifier`` is an open one, or what names a bundle (None: the pretrained one); one that was
    given is not closed. ``detector`` is a name of :data:`fer_edge.faces.DETECTORS`, an object with
    ``detect``, None for the default, or ``"whole"``: each picture is one face. A 48x48 picture is
    one face in any case. ``every_face`` classifies also faces with a problem. ``most_faces`` limits
    the faces of a picture.

    An object may be called by one thread at a time. Raises
    :class:`~fer_edge.errors.UnavailableError` if the detector is not installed, with the line that
    installs it, and what :class:`~fer_edge.Classifier` raises.
    """

    def __init__(
        self,
        classifier: Classifier | Bundle | str | Path | None = None,
        *,
        detector: str | Detector | None = None,
        every_face: bool = False,
        most_faces: int = 100,
    ) -> None:
        self.detector = _detector_of(detector)
        self._owns = not isinstance(classifier, Classifier)
        self.classifier = (
            classifier if isinstance(classifier, Classifier) else Classifier(classifier)
        )
        self._every_face = every_face
        self._most = most_faces

    def __call__(
        self,
        image: PictureSource,
        *,
        boxes: Iterable[Sequence[float]] | None = None,
        bgr: bool = False,
    ) -> Analysis:
        """Analyze one picture: a path, bytes, an open file, a Pillow image or an array.

        ``boxes`` are faces of your own, [left, top, right, bottom] in pixels of the upright
        picture: each is made a square around its centre and is cut out as it is. ``bgr`` says that
        an array has the order of OpenCV's channels. Raises UsageError for a picture that cannot be
        read, and for a box that is outside of it.
        """
        return self._answer(self._read(image, boxes is not None, bgr), boxes)

    def stream(
        self,
        images: Iterable[PictureSource],
        *,
        boxes: Callable[[str], Iterable[Sequence[float]]] | None = None,
        readers: int = _READERS,
    ) -> Generator[Analysis, None, None]:
        """Yield the answer to each of ``images``, in order; ``readers`` threads read ahead.

        A picture that cannot be read is an answer with an error, and the rest go on. Only a few
        pictures are in memory at a time. ``boxes`` returns the boxes of a picture by its name.
        """
        pending: deque[tuple[str, Future[Picture | np.ndarray]]] = deque()
        sources = iter(images)
        pool = ThreadPoolExecutor(readers, thread_name_prefix="fer-edge-read")
        try:
            while True:
                for image in sources:
                    read = pool.submit(self._read, image, boxes is not None, False)
                    pending.append((name_of_picture(image), read))
                    if len(pending) >= readers * _AHEAD:
                        break
                if not pending:
                    return
                name, read = pending.popleft()
                yield self._streamed(name, read, boxes)
        finally:
            # Never join here: the garbage collector may end an abandoned generator, in a thread
            # that holds a lock of `threading` which join needs, too.
            pool.shutdown(wait=False, cancel_futures=True)

    def _streamed(
        self,
        name: str,
        read: Future[Picture | np.ndarray],
        boxes: Callable[[str], Iterable[Sequence[float]]] | None,
    ) -> Analysis:
        try:
            answer = self._answer(read.result(), None if boxes is None else boxes(name))
        except UsageError as error:
            return Analysis(name, error=error)
        return Analysis(name, answer.faces, picture=answer.picture)

    def _read(self, image: PictureSource, has_boxes: bool, bgr: bool) -> Picture | np.ndarray:
        """Return the picture, or u8[48,48] where the whole picture is the face."""
        if self.detector is None and not has_boxes and not bgr:
            return face_from_image(image)
        picture = picture_from_image(image, bgr=bgr)
        whole = picture.size == (SIZE, SIZE) or self.detector is None
        return face_from_image(picture.gray) if whole and not has_boxes else picture

    def _answer(
        self, picture: Picture | np.ndarray, boxes: Iterable[Sequence[float]] | None
    ) -> Analysis:
        if isinstance(picture, np.ndarray):
            prediction = self.classifier.predict(picture)
            face = Face(None, None, None, None, prediction)
            return Analysis("the picture", (face,), picture=Picture(picture, "the picture"))
        found = self._found(picture) if boxes is None else _own(picture, boxes)
        judged = [face.problem is None or self._every_face for face in found]
        squares = [face.square for face, judge in zip(found, judged) if judge and face.square]
        answers = iter(self.classifier.predict_batch(cut(picture, square) for square in squares))
        faces = [
            Face(face.box, face.score, face.square, face.problem, next(answers) if judge else None)
            for face, judge in zip(found, judged)
        ]
        return Analysis(picture.name, tuple(faces), picture=picture)

    def _found(self, picture: Picture) -> list[Face]:
        assert self.detector is not None
        found = self.detector.detect(picture).first(self._most)
        faces = []
        for box, score, marks in zip(found.boxes, found.scores, found.landmarks):
            square = fitted_square(box, marks)
            left, top, right, bottom = map(float, box)
            problem = problem_of(picture, square, marks)
            faces.append(Face((left, top, right, bottom), float(score), square, problem, None))
        return faces

    def close(self) -> None:
        """Release the engine, unless the classifier was given; may be called more than once."""
        if self._owns:
            self.classifier.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _detector_of(wanted: str | Detector | None) -> Detector | None:
    if wanted is None or isinstance(wanted, str):
        if wanted == _WHOLE:
            return None
        # Without a default there is an error that says how to install it.
        return detector(wanted or default_detector())
    if not callable(getattr(wanted, "detect", None)):
        raise UsageError(
            f"a detector is a name or an object with detect(picture), not {type(wanted).__name__}"
        )
    return wanted


def _own(picture: Picture, boxes: Iterable[Sequence[float]]) -> list[Face]:
    faces = []
    for box in boxes:
        try:
            left, top, right, bottom = map(float, box)
        except (TypeError, ValueError):
            raise UsageError(
                f"{picture.name}: a box is [left, top, right, bottom], not {box!r:.80}"
            ) from None
        edges = (left, top, right, bottom)
        faces.append(Face(edges, None, square_around(edges), None, None))
    return faces
