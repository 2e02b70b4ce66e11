"""``build --prior``: weights with another prior, with the confidence fitted after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fer_edge.build.source import BuildSource
from fer_edge.errors import UsageError
from fer_edge.measure.confidence import ACCURACY
from fer_edge.measure.prior import parse_prior
from fer_edge.progress import Reporter

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["with_prior"]


def with_prior(
    source: BuildSource,
    folder: Path,
    dataset: FerDataset,
    prior: str,
    *,
    votes: str | Path | None = None,
    reporter: Reporter,
) -> BuildSource:
    """Return ``source`` with weights in ``folder`` whose ``prior`` is another one.

    The source itself is not changed. The confidence is fitted again, on the held-out part of TRAIN,
    for the same accuracy as the source's confidence. If a bundle has no weights, those of its FP32
    graph are used. UsageError for an ONNX file, and if nothing was held out.
    """
    from fer_edge.build.confidence import write_fitted
    from fer_edge.models.header import read_header

    parse_prior(prior)  # before minutes of work
    path, out = source.weights, folder / "prior.safetensors"
    if path is None:
        path = _weights_of_graph(source, folder, dataset)
    confidence = read_header(path).info.confidence
    accuracy = confidence.target if confidence and confidence.target else ACCURACY
    run = source.run or Path(source.name)
    fitted = write_fitted(
        path, out, dataset, run=run, accuracy=accuracy, prior=prior, votes=votes, reporter=reporter
    )
    tau = fitted["prior"]["tau"]
    reporter.note(f"prior {tau:g} ({prior}): in the bias of the last layer of every engine")
    return replace(source, weights=out, onnx=None)


def _weights_of_graph(source: BuildSource, folder: Path, dataset: FerDataset) -> Path:
    from fer_edge.convert.checkpoint import weights_from_bundle
    from fer_edge.models.weights import load_weights, save_weights

    if source.given is None:
        raise UsageError(
            f"{source.described} has no record of its training, which a prior needs",
            fix="build from the run or the bundle of the network",
        )
    path = folder / "graph.safetensors"
    weights_from_bundle(source.given, dataset.select("train").images, path)
    weights, card = load_weights(path), source.given.manifest.card
    # The graph has the card's temperature and prior.
    info = msgspec.structs.replace(weights.info, confidence=card.confidence, prior=card.prior)
    save_weights(path, weights.state, weights.spec, weights.preprocessing, info)
    return path
