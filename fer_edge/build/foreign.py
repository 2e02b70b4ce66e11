"""A graph from elsewhere as the source of a build: what it is read as, and whether that is right.

What the user says wins over what the graph's metadata says, and that over what is assumed; a note
says which is which. PUBLIC never chooses: where another scaling or another order of the classes
scores far better on the split that judges, the build is refused, and the error has the options.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fer_edge.convert.adapt import adapted
from fer_edge.convert.declared import declared
from fer_edge.convert.foreign import ForeignGraph, logits_of, read_foreign
from fer_edge.convert.graph import Graph, save_model, set_metadata
from fer_edge.convert.onnx_file import IMAGENET, OnnxFile, Scaling, outputs_of
from fer_edge.convert.reading import own_graph
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import GateError, UsageError
from fer_edge.labels import FERPLUS
from fer_edge.measure.accuracy import mcnemar_exact
from fer_edge.measure.assignment import best_assignment, other_order
from fer_edge.preprocessing import Preprocessing
from fer_edge.progress import SILENT, Reporter
from fer_edge.provenance import DatasetInfo

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["Foreign", "open_graph", "refuse_other_order", "refuse_other_scaling"]

_FIRST, _SECOND, _BATCH = 128, 768, 32
_POINTS, _SURELY = 0.03, 1e-4
_CUT = {
    "Softmax": "its last Softmax was cut off: a bundle gives logits",
    "LogSoftmax": "its last LogSoftmax was cut off: a bundle gives logits",
    "Sigmoid": "its last Sigmoid was cut off: confidences are now those of a softmax",
    "logarithm": "it gives probabilities, so their logarithm was taken: a bundle gives logits",
}
_OURS = Scaling(mean=(Preprocessing.mean,), std=(Preprocessing.std,))
_SCALINGS = (
    Scaling(),
    Scaling(scale=1.0),
    IMAGENET,
    _OURS,
    Scaling(mean=(0.5,), std=(0.5,)),
)
"""The usual ones: 0 to 1, pixels, ImageNet's, FER2013's mean and deviation, -1 to 1."""
_CAFFE = Scaling(1.0, (123.68, 116.779, 103.939))
"""Means of ImageNet's pixels, as R, G, B: Caffe's networks, and the older ones of Keras."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """A user's graph, and what it is read as.

    ``labels`` names its outputs, ``classes`` those of the bundle; ``outputs[i]`` is the output with
    class i. ``read`` and ``assumed`` say where that is from.
    """

    graph: ForeignGraph
    scaling: Scaling
    labels: tuple[str, ...] | None
    classes: tuple[str, ...] = ()
    outputs: tuple[int, ...] = ()
    read: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def data(self) -> DatasetInfo:
        """The record of its data, of which only the classes are known."""
        return DatasetInfo(classes=() if self.classes == EMOTIONS else self.classes)

    def with_classes(self, classes: Sequence[str] | None) -> Foreign:
        """Return it with the classes of the data; None: as its outputs are named.

        :class:`UsageError` where its outputs are not these.
        """
        path, count = self.graph.path, self.graph.classes
        labels, assumed = self.labels, self.assumed
        if labels is None:
            labels = _assumed_labels(classes, count, path)
            assumed = (*assumed, f"labels {','.join(labels)} (in this order)")
        if len(labels) != count:
            raise UsageError(
                f"{path} gives {count} scores, but --labels names {len(labels)}",
                fix="name each output in its order; leave one out with NAME=",
            )
        where = "--labels" if self.graph.file.labels else str(path)
        wanted, outputs = outputs_of(labels, classes, where)
        return replace(self, labels=labels, classes=wanted, outputs=outputs, assumed=assumed)

    def write(self, out: Path, *, pixels: bool = True) -> tuple[Graph, Preprocessing]:
        """Write the FP32 graph of the bundle to ``out``.

        With ``pixels=False`` its input is f32, scaled by the :class:`Preprocessing`.
        """
        if not pixels and self.graph.pixels.integer:
            raise UsageError(
                f"{self.graph.path} takes integer pixels, so a graph with --input f32 cannot be "
                "made from it",
                fix="leave --input away",
            )
        model, preprocessing = adapted(self.graph, self.scaling, self.outputs, pixels=pixels)
        kept = [each for each in model.metadata_props if not each.key.startswith("fer_edge.")]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)
        set_metadata(
            model,
            {
                "fer_edge.adapted": {
                    "labels": list(self.labels or ()),
                    "scaling": str(self.scaling),
                    "cut": self.graph.cut,
                },
                "fer_edge.labels": list(self.classes),
                "fer_edge.preprocessing": preprocessing.to_dict(),
            },
        )
        return Graph(out, save_model(model, out), model), preprocessing

    def described(self) -> str:
        """Return the line that says what was read, assumed and changed."""
        pixels = self.graph.pixels
        width, height = pixels.size
        kind = "gray" if pixels.channels == 1 else "three channels"
        parts = [f"{width}x{height} {kind} {pixels.layout}"]
        parts += [f"read {', '.join(self.read)}"] if self.read else []
        parts += [f"assumed {', '.join(self.assumed)}"] if self.assumed else []
        parts += [_CUT[self.graph.cut]] if self.graph.cut else []
        parts += [f"not used: {', '.join(self.problems)}"] if self.problems else []
        return f"{self.graph.path}: {'; '.join(parts)}"


def open_graph(file: OnnxFile) -> Graph | Foreign:
    """Return an ONNX file as it is if fer-edge made it, else what it is read as.

    Its classes are not yet those of the data: :meth:`Foreign.with_classes`.
    """
    if not file.given:
        ours = own_graph(file.path)
        if ours is not None:
            return ours
    graph = read_foreign(file)
    said = declared(graph.model, graph.classes)
    read, assumed, problems = list(said.read), list(graph.assumed), list(said.problems)
    labels = said.labels
    if file.labels is not None:
        labels = file.labels
        read = [each for each in read if not each.startswith("labels")]
    scaling = _scaling(file, graph, said.scaling, assumed)
    if scaling != said.scaling:
        read = [each for each in read if not each.startswith("scaling")]
    return Foreign(
        graph, scaling, labels, read=tuple(read), assumed=tuple(assumed), problems=tuple(problems)
    )


def _scaling(
    file: OnnxFile, graph: ForeignGraph, said: Scaling | None, assumed: list[str]
) -> Scaling:
    given = [file.mean, file.std, file.scale]
    if graph.pixels.scales:
        if any(each is not None for each in given):
            raise UsageError(
                f"{file.path} takes integer pixels and scales them itself",
                fix="leave --mean, --std and --scale away",
            )
        return Scaling(scale=1.0)
    if any(each is not None for each in given):
        found = Scaling(file.scale or Scaling.scale, file.mean or (0.0,), file.std or (1.0,))
        if file.scale is None and max(map(abs, (*found.mean, *found.std))) > 2:
            raise UsageError(
                f"{found.option} is for pixels from 0 to 255, but pixels are scaled to 0..1 first",
                fix=f"{found.option} --scale 1",
            )
        return found
    if said is not None:
        channels = max(len(said.mean), len(said.std))
        if channels == 1 or graph.pixels.channels == 3:
            return said
        mean, std = float(np.mean(said.mean)), float(np.mean(said.std))
        return Scaling(said.scale, (mean,), (std,))
    assumed.append(f"scaling {_OURS}")
    return _OURS


def _assumed_labels(classes: Sequence[str] | None, count: int, path: Path) -> tuple[str, ...]:
    """Return the names of the outputs where nobody gives them."""
    known = classes if classes is not None else {7: EMOTIONS, 8: FERPLUS.names}.get(count)
    if known is None or len(known) != count:
        what = f", but the data has {len(known)} classes" if known else ""
        raise UsageError(
            f"{path} gives {count} scores and does not name them{what}",
            fix="name them in their order: --labels NAME,NAME,...; NAME= leaves an output out",
        )
    return tuple(known)


def refuse_other_scaling(
    foreign: Foreign, selected: FerDataset, *, reporter: Reporter = SILENT
) -> None:
    """Raise :class:`GateError` if another usual scaling scores far better on ``selected`` images.

    Far better: 3 points of top-1 and not by chance (McNemar's test, p < 1e-4), each scaling with
    the order of classes that fits it best. All are tried on 128 images, the best one on 768.
    """
    if foreign.graph.pixels.scales:
        return
    few = _Trial(foreign, selected, _FIRST)
    tried = [foreign.scaling, *(each for each in _candidates(foreign) if each != foreign.scaling)]
    advance, scores = reporter.stage("scaling"), list[int]()
    for scaling in tried:
        scores.append(int(few.right(scaling)[0].sum()))
        advance(len(scores), len(tried))
    best = tried[int(np.argmax(scores))]
    if best == foreign.scaling:
        return
    more = _Trial(foreign, selected, _SECOND)
    (mine, _), (theirs, confusion) = more.right(foreign.scaling), more.right(best)
    lost, gained = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
    if gained - lost < _POINTS * len(mine) or mcnemar_exact(lost, gained) >= _SURELY:
        return
    order = other_order(confusion)
    also = "" if order is None else f" --labels {_labels_by(foreign, order)}"
    raise GateError(
        f"{foreign.graph.path} is right on {mine.mean():.1%} of {len(mine):,} images with the "
        f"scaling {foreign.scaling}, and on {theirs.mean():.1%} with {best}"
        f"{' and another order of its outputs' if also else ''}",
        fix=_again(foreign, best, also),
    )


def _candidates(foreign: Foreign) -> list[Scaling]:
    if foreign.graph.pixels.channels == 3:
        return [*_SCALINGS, _CAFFE]
    # One channel: the mean over the three, as for torchvision's networks of gray images.
    gray = Scaling(mean=(0.449,), std=(0.226,))
    return [gray if each == IMAGENET else each for each in _SCALINGS]


class _Trial:
    """Runs a graph with several scalings on the same images."""

    def __init__(self, foreign: Foreign, selected: FerDataset, count: int) -> None:
        rows = np.linspace(0, len(selected) - 1, min(count, len(selected))).astype(int)
        self.foreign = foreign
        self.images = selected.images[rows][:, None]
        self.labels = np.asarray(selected.labels[rows], np.int64)

    def right(self, scaling: Scaling) -> tuple[np.ndarray, np.ndarray]:
        """Return bool[N], which answers are right in the order that fits best, and confusion."""
        foreign = self.foreign
        model, _ = adapted(foreign.graph, scaling, foreign.outputs)
        content = model.SerializeToString()
        logits = np.concatenate(
            [
                logits_of(content, self.images[at : at + _BATCH], foreign.graph.path)
                for at in range(0, len(self.images), _BATCH)
            ]
        )
        answers, classes = logits.argmax(axis=1), logits.shape[1]
        confusion = np.zeros((max(classes, int(self.labels.max()) + 1), classes), np.int64)
        np.add.at(confusion, (self.labels, answers), 1)
        order = best_assignment(confusion[:classes])
        known = self.labels < classes
        right = np.zeros(len(answers), bool)
        right[known] = order[self.labels[known]] == answers[known]
        return right, confusion


def refuse_other_order(
    foreign: Foreign | None, path: Path, classes: Sequence[str], confusion: Any
) -> None:
    """Raise :class:`GateError` if another order of the outputs scores far better.

    ``confusion[label, answer]`` is the reference's on the split that judges. ``foreign`` is None
    for a graph that fer-edge made, whose outputs are ``classes``.
    """
    confusion = np.asarray(confusion, np.int64)
    order = other_order(confusion)
    if order is None:
        return
    rows = np.arange(len(order))
    before, after = (confusion[rows, each].sum() / confusion.sum() for each in (rows, order))
    if foreign is None:
        named = [""] * len(order)
        for label, output in enumerate(order):
            named[int(output)] = classes[label]
        labels, fix = ",".join(named), f"fer-edge build {shlex.quote(str(path))} --labels "
        fix += shlex.quote(",".join(named))
    else:
        labels = _labels_by(foreign, order)
        fix = _again(foreign, None, f" --labels {labels}")
    raise GateError(
        f"{path} is right on {before:.1%} of {confusion.sum():,} images with its outputs in the "
        f"order {','.join(classes) if foreign is None else ','.join(foreign.labels or ())}, and "
        f"on {after:.1%} in the order {labels}",
        fix=fix,
    )


def _labels_by(foreign: Foreign, order: np.ndarray) -> str:
    """Return the names of a graph's own outputs where class i is the bundle's output order[i]."""
    names = [f"{name.partition('=')[0]}=" for name in foreign.labels or ()]
    for label, output in enumerate(order):
        names[foreign.outputs[int(output)]] = foreign.classes[label]
    return shlex.quote(",".join(names))


def _again(foreign: Foreign, scaling: Scaling | None, labels: str) -> str:
    """Return the command with the options that were found, and those that were given."""
    file = foreign.graph.file
    words = f"fer-edge build {shlex.quote(str(file.path))}"
    if scaling is not None:
        words += f" {scaling.option}"
    elif file.mean or file.std or file.scale:
        words += f" {foreign.scaling.option}"
    if labels:
        words += labels
    elif file.labels:
        words += f" --labels {shlex.quote(','.join(file.labels))}"
    words += f" --layout {file.layout}" if file.layout else ""
    words += f" --colour {file.colour}" if file.colour else ""
    words += f" --size {file.size[0]}x{file.size[1]}" if file.size else ""
    return words
