"""Score networks, and the mean of their answers: what they would teach together.

    python bench/ensemble.py pretrained:fer2013 runs/votes-labels
    python bench/ensemble.py pretrained:fer2013 runs/votes-labels --public

Networks are runs, weights files and bundles (their FP32 graph). The images are the held-out part of
TRAIN, which none of them trained on: it chooses. ``--public`` looks at PublicTest instead. The loss
is the mean negative log-likelihood, as it is and after division of the logits by the number that is
best for these images; "together" is the mean of the probabilities so divided.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from failure import told

from fer_edge.backends import backend_from_bundle
from fer_edge.backends.base import softmax
from fer_edge.bundle import Bundle
from fer_edge.data import FerDataset, load, resolve_source
from fer_edge.data.holdout import holdout_mask
from fer_edge.errors import FerEdgeError, UsageError
from fer_edge.measure.confidence import fit_temperature
from fer_edge.models.reference import reference_from_weights
from fer_edge.provenance import WeightsInfo
from fer_edge.runs.find import A_NETWORK, find

Answer = Callable[[np.ndarray], np.ndarray]
Holdout = tuple[float, int] | None


def opened(name: str) -> tuple[Answer, Holdout]:
    """Return a function from u8[N,48,48] to f32[N,C] logits, and what was held out of TRAIN."""
    found = find(name, wants=A_NETWORK)
    if found.kind == "bundle":
        bundle = Bundle.open(found.path)
        recipe = bundle.manifest.card.training.recipe
        engine = backend_from_bundle(bundle, "onnxruntime", "fp32")
        engine.load()
        return partial(in_parts, engine.infer), WeightsInfo(recipe=recipe).holdout
    model, weights = reference_from_weights(found.weights)

    @torch.no_grad()
    def infer(images: np.ndarray) -> np.ndarray:
        return np.asarray(model(torch.from_numpy(images)))

    return partial(in_parts, infer), weights.info.holdout


def in_parts(infer: Answer, images: np.ndarray) -> np.ndarray:
    """Return the logits of u8[N,48,48], a few hundred images at a time."""
    parts = np.array_split(images[:, None], max(1, len(images) // 256))
    return np.concatenate([infer(part) for part in parts])


def held_out(dataset: FerDataset, holdouts: Mapping[str, Holdout]) -> FerDataset:
    """Return the rows of TRAIN that all networks held out; UsageError if they differ."""
    for name, holdout in holdouts.items():
        if holdout is None:
            raise UsageError(
                f"{name} trained on all of TRAIN, so no image of it can choose",
                fix="train it with --set data.holdout=0.05, or give --public",
            )
    fraction, seed = next(each for each in holdouts.values() if each)
    if len(set(holdouts.values())) > 1:
        raise UsageError(
            "the networks held out different images, so none of them can judge all",
            fix="give --public, or networks with equal data.holdout and data.holdout_seed",
        )
    train = dataset.select("train")
    return train.take(np.flatnonzero(holdout_mask(train, fraction, seed)))


def loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of f32[N,C]."""
    return float(-np.log(probabilities[np.arange(len(labels)), labels].clip(1e-9)).mean())


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line for each network and one for all together; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="+", help="runs, weights files, bundles")
    parser.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
    parser.add_argument("--public", action="store_true", help="look at PublicTest")
    options = parser.parse_args(argv)
    try:
        dataset = load(resolve_source(options.data))
        networks = {name: opened(name) for name in options.networks}
        holdouts = {name: holdout for name, (_, holdout) in networks.items()}
        part = dataset.select("public") if options.public else held_out(dataset, holdouts)
        labels = part.labels.astype(np.int64)
        rows = []
        for name in options.networks:
            logits = networks[name][0](part.images)
            rows.append((name, softmax(logits), softmax(logits / fit_temperature(logits, labels))))
    except FerEdgeError as error:
        return told(error)
    mean = np.mean([at_best for _, _, at_best in rows], axis=0)
    rows += [("together", mean, mean)] if len(rows) > 1 else []
    which = "PublicTest" if options.public else "TRAIN, held out"
    drawn = "SYNTHETIC faces, not FER2013: " if dataset.synthetic else ""
    sys.stdout.write(f"{drawn}{which}, n = {len(labels):,}\n")
    for name, as_is, at_best in rows:
        top1 = (as_is.argmax(1) == labels).mean()
        sys.stdout.write(
            f"{name:32} top-1 {top1:.2%}, loss {loss(as_is, labels):.4f}, "
            f"at its best temperature {loss(at_best, labels):.4f}\n"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
