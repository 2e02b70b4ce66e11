"""Which network a command of analysis means, and which images it may be judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fer_edge.cli._names import found
from fer_edge.cli._output import note, terminal_reporter

if TYPE_CHECKING:
    from fer_edge.backends.base import Backend
    from fer_edge.bundle import Bundle
    from fer_edge.data import FerDataset
    from fer_edge.provenance import DatasetInfo
    from fer_edge.runs.find import Found

__all__ = ["Subject", "engine_options", "find_subject", "split_option", "warn_of_faces"]

F = TypeVar("F", bound=Callable[..., Any])


def split_option(command: F) -> F:
    """``--split NAME``; None when not given, for :meth:`Subject.images`."""
    return click.option(
        "--split",
        type=click.Choice(["public", "private", "test", "train"]),
        help="Which images; test is public and private, and private the final test.  [default: "
        "public; for a run on another split than FER2013's, its own held-out images]",
    )(command)


def engine_options(command: F) -> F:
    """``--backend`` and ``--precision``, both None when not given."""
    backend = click.option(
        "--backend",
        help="The backend: onnxruntime, openvino, pytorch, tensorrt, tensorrt-rtx.  [default: "
        "pytorch for a run, onnxruntime for a bundle]",
    )
    precision = click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "int8"]),
        help="Of a bundle.  [default: the best whose gate has not failed]",
    )
    return backend(precision(command))


@dataclass(frozen=True)
class Subject:
    """A network: a run's or a file's weights, or a bundle; and what is known of its training data.

    ``described`` is what run, weights or manifest record of their data; ``history`` the run's
    history.csv, where there is a run; ``recorded`` where the run read its data from.
    """

    name: str
    weights: Path | None
    bundle: Bundle | None
    described: DatasetInfo
    history: Path | None = None
    recorded: str | None = None

    def engine(self, backend: str | None, precision: str | None, threads: int) -> Backend:
        """Return the engine that the options name, not loaded."""
        from fer_edge.backends import backend_from_bundle

        if self.bundle is None:
            from fer_edge.backends.pytorch import PyTorchBackend

            return PyTorchBackend(self.weights, threads=threads)
        return backend_from_bundle(
            self.bundle, backend or "onnxruntime", precision, threads=threads
        )

    def checkpoint(self) -> Path:
        """Return the PyTorch weights; UsageError for a bundle that carries none."""
        from fer_edge.errors import UsageError

        if self.bundle is None:
            assert self.weights is not None
            return self.weights
        artifact = self.bundle.find(format="safetensors")
        if artifact is None:
            raise UsageError(
                f"the bundle {self.bundle.path} carries no checkpoint: there are no gradients in "
                "an engine",
                fix="name the run that it was made from",
            )
        return self.bundle.file(artifact)

    def images(self, data: str | None, split: str | None) -> tuple[FerDataset, str]:
        """Return the whole data set, split as the network's was, and the split to look at.

        ``data`` None takes what the run was trained on, else FER_EDGE_DATA. What is not as one
        would expect is said on stderr.
        """
        from fer_edge.data import Split, load, resolve_source, resplit_as_recorded

        source = data or self.recorded or resolve_source(None)
        with terminal_reporter() as reporter:
            dataset = load(source, reporter=reporter)
        dataset = resplit_as_recorded(dataset, self.described, self.name)
        own = dataset.resplit
        if split is None:
            third = own is not None and bool((dataset.split == Split.PRIVATE).any())
            split = "private" if third else "public"
            if own is not None:
                use = "never seen in training" if third else "which its epochs were chosen on"
                note(f"note: {self.name} has its own {own.label}; its {split} images, {use}")
        elif split in ("private", "test") and own is None and not dataset.synthetic:
            note("note: PRIVATE is the final test: a network chosen by it has no test left")
        trained_on = self.described.sha256
        if own is None and trained_on not in (None, dataset.sha256):
            note(f"note: {self.name} was trained on another data set than {dataset.source}")
        return dataset, split


def find_subject(name: str | None, root: Path, *, engine: bool = False) -> Subject:
    """Return the network that ``name`` means: a run, a bundle or a weights file.

    A run is its weights, or with ``engine`` (the options name an engine) its bundle. None is the
    pretrained bundle. UsageError as :func:`fer_edge.runs.find.find`.
    """
    from fer_edge.bundle import Bundle
    from fer_edge.runs.find import A_NETWORK, AN_ENGINE

    source = found(name, root, AN_ENGINE if engine else A_NETWORK)
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
    )


def warn_of_faces(images: FerDataset, *paths: Path) -> None:
    """Say which pictures show people of the data set."""
    if not images.synthetic:
        names = ", ".join(path.name for path in paths)
        note(f"note: {names}: faces of {images.source}, for your own eyes: do not publish them")


def _from_run(source: Found) -> Subject:
    from fer_edge.runs.folder import RunFolder, confidence_weights

    run, weights = source.path, source.weights
    info = RunFolder(run).info()
    recorded = info.data
    synthetic = recorded.partition(":")[0] == "synthetic"
    return Subject(
        name=str(run),
        # What `fer-edge build` would build from.
        weights=confidence_weights(run) or weights,
        bundle=None,
        described=info.dataset,
        history=run / "history.csv",
        recorded=recorded if synthetic or (recorded and Path(recorded).exists()) else None,
    )


def _from_weights(path: Path) -> Subject:
    from fer_edge.models.header import read_header

    return Subject(str(path), path, None, read_header(path).info.dataset)
