"""The network that an analysis command works on, and the images that it may be scored on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fer_edge.cli.shared.names import found
from fer_edge.cli.shared.options import BACKEND_HELP, tensorrt_option
from fer_edge.cli.shared.output import note, terminal_reporter

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle
    from fer_edge.data import FerDataset
    from fer_edge.provenance import DatasetInfo
    from fer_edge.runs.find import Found

__all__ = ["Subject", "engine_options", "find_subject", "split_option", "warn_of_faces"]

F = TypeVar("F", bound=Callable[..., Any])


def split_option(command: F) -> F:
    """``--split NAME``; None if not given, for :meth:`Subject.images`."""
    return click.option(
        "--split",
        type=click.Choice(["public", "private", "test", "train"]),
        help="The images to use; test is public and private; private is the final test.  "
        "[default: public; for a run with its own split, its held-out images]",
    )(command)


def engine_options(command: F) -> F:
    """``--backend`` and ``--precision``, both None if not given, and ``--tensorrt``."""
    backend = click.option(
        "--backend",
        help=f"{BACKEND_HELP}  [default: pytorch for a run, onnxruntime for a bundle]",
    )
    precision = click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "int8"]),
        help="The precision of the bundle's engine.  [default: the best whose gate has not failed]",
    )
    return backend(precision(tensorrt_option(command)))


@dataclass(frozen=True)
class Subject:
    """A network (the weights of a run or file, or a bundle) and the record of its training data.

    ``described`` is the record of the data in run, weights or manifest; ``history`` is the run's
    history.csv, if there is a run; ``recorded`` and ``votes`` are the files from which the run read
    its images and its votes. ``by_votes``: the network learnt votes, not FER2013's labels.
    """

    name: str
    weights: Path | None
    bundle: Bundle | None
    described: DatasetInfo
    history: Path | None = None
    recorded: str | None = None
    votes: Path | None = None
    by_votes: bool = False

    def engine(self, backend: str | None, precision: str | None, threads: int) -> Backend:
        """Return the backend with the engine that the options select, not loaded."""
        from fer_edge.backends import backend_from_bundle

        if self.bundle is None:
            from fer_edge.backends.pytorch import PyTorchBackend

            return PyTorchBackend(self.weights, threads=threads)
        return backend_from_bundle(
            self.bundle, backend or "onnxruntime", precision, threads=threads
        )

    def checkpoint(self) -> Path:
        """Return the PyTorch weights; UsageError for a bundle without a checkpoint."""
        from fer_edge.errors import UsageError

        if self.bundle is None:
            assert self.weights is not None
            return self.weights
        artifact = self.bundle.find(format="safetensors")
        if artifact is None:
            raise UsageError(
                f"the bundle {self.bundle.path} has no checkpoint; Grad-CAM needs one, since an "
                "engine gives no gradients",
                fix="name the run that the bundle was made from",
            )
        return self.bundle.file(artifact)

    def images(
        self,
        data: str | None,
        split: str | None,
        votes: Path | None = None,
        classes: str | None = None,
    ) -> tuple[FerDataset, str]:
        """Return the whole data set, split as in training, and the name of the split to use.

        ``data`` None takes the data set that the run was trained on, else FER_EDGE_DATA; ``votes``
        None the file that the run learnt, if it learnt votes; ``classes`` None those that the
        network was trained with. Notes about split and labels go to
        stderr.
        """
        from fer_edge.data import Split, load, resolve_source, resplit_as_recorded
        from fer_edge.data.classes import classes_as_recorded
        from fer_edge.measure.votes import labels_note

        source = data or self.recorded or resolve_source(None)
        with terminal_reporter() as reporter:
            dataset = load(
                source,
                votes=votes or self.votes,
                classes=classes_as_recorded(self.described, classes, self.name),
                reporter=reporter,
            )
        dataset = resplit_as_recorded(dataset, self.described, self.name)
        resplit = dataset.resplit
        if split is None:
            third = resplit is not None and bool((dataset.split == Split.PRIVATE).any())
            split = "private" if third else "public"
            if resplit is not None:
                use = "were not used in training" if third else "were used to choose its epoch"
                note(
                    f"note: {self.name} has its own {resplit.label}; "
                    f"its {split} images are used here: they {use}"
                )
        elif split in ("private", "test") and resplit is None and not dataset.synthetic:
            note("note: PRIVATE is the final test: do not choose a network by its result")
        trained_on = self.described.sha256
        if resplit is None and trained_on not in (None, dataset.sha256):
            note(f"note: {self.name} was trained on another data set, not on {dataset.source}")
        other = labels_note(self.by_votes, dataset)
        if other:
            note(f"note: {self.name} {other}")
        return dataset, split


def find_subject(
    name: str | None, root: Path, *, engine: bool = False, votes: bool = False
) -> Subject:
    """Return the network that ``name`` means: a run, a bundle or a weights file.

    A run means its weights, or with ``engine`` (the options select an engine) its bundle. None
    means the pretrained bundle that learnt votes, or FER2013's labels. UsageError as in
    :func:`fer_edge.runs.find.find`.
    """
    from fer_edge.bundle import Bundle
    from fer_edge.runs.find import A_NETWORK, AN_ENGINE

    wants = AN_ENGINE if engine else A_NETWORK
    source = found(name, root, wants.scored_by_votes(votes))
    if source.kind == "run":
        return _from_run(source)
    if source.kind == "weights file":
        return _from_weights(source.path)
    bundle = Bundle.open(source.path)
    history = bundle.path.parent / "history.csv"
    return Subject(
        name=name or bundle.manifest.name,
        weights=None,
        bundle=bundle,
        described=bundle.manifest.dataset,
        history=history if history.is_file() else None,
        by_votes=bundle.manifest.by_votes,
    )


def warn_of_faces(images: FerDataset, *paths: Path) -> None:
    """Print which pictures show faces of real people in the data set."""
    if not images.synthetic:
        names = ", ".join(path.name for path in paths)
        note(f"note: {names} shows faces of {images.source}: do not publish it")


def _from_run(source: Found) -> Subject:
    from fer_edge.provenance import learnt_target
    from fer_edge.runs.folder import RunFolder, confidence_weights

    run, weights = source.path, source.weights
    info = RunFolder(run).info()
    by_votes = learnt_target(info.recipe) != "label"
    recorded = info.data
    synthetic = recorded.partition(":")[0] == "synthetic"
    return Subject(
        name=str(run),
        # The weights that `fer-edge build` takes.
        weights=confidence_weights(run) or weights,
        bundle=None,
        described=info.dataset,
        history=run / "history.csv",
        recorded=recorded if synthetic or (recorded and Path(recorded).exists()) else None,
        votes=Path(info.votes) if by_votes and info.votes and Path(info.votes).is_file() else None,
        by_votes=by_votes,
    )


def _from_weights(path: Path) -> Subject:
    from fer_edge.models.header import read_header

    info = read_header(path).info
    return Subject(str(path), path, None, info.dataset, by_votes=info.by_votes)
