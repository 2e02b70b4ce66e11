"""A run's confidence: temperature and abstain threshold, fitted on the rows that it never saw.

The rows are the held-out part of TRAIN that the run's recipe left out of training. The result is a
second weights file in the run, with the temperature folded into the last layer. All later builds
use it: the logits of the weights and of all graphs are then divided by the temperature, without
extra computation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fer_edge.build.votes import with_training_votes
from fer_edge.errors import UsageError, require
from fer_edge.measure.confidence import ACCURACY, Confidence, confidence_of, selective
from fer_edge.progress import SILENT, Reporter
from fer_edge.provenance import ConfidenceInfo, WeightsInfo, learnt_target
from fer_edge.records import plain, read_record
from fer_edge.runs.folder import CONFIDENCE_FILES, CONFIDENCE_WEIGHTS
from fer_edge.runs.recipe import Loss
from fer_edge.training.vote_targets import fitted_targets, require_votes

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["fit_confidence"]

METHOD = "temperature scaling (Guo et al. 2017, arXiv 1706.04599), least NLL"
_BATCH = 64


def fit_confidence(
    run: Path,
    dataset: FerDataset,
    *,
    accuracy: float = ACCURACY,
    votes: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Fit temperature and threshold, write ``confidence.safetensors``, return what it records.

    ``accuracy`` (a fraction) is what the answers above the abstain threshold shall reach.
    ``dataset`` is the whole set that the run was trained on: its held-out rows are found again.
    Rows whose pixels are also in PUBLIC or PRIVATE are left out. PUBLIC only judges what was
    fitted (``public`` in the result); PRIVATE's labels are not read. A run that learnt votes is
    fitted to their shares; ``votes`` is their file, None the one that the run recorded. Raises
    UsageError for a run that trained on all of TRAIN, and DataError for another data set.
    """
    for module in ("torch", "safetensors"):
        require(module, "train")
    from fer_edge.models.temperature import save_scaled
    from fer_edge.models.weights import load_weights

    path = run / "model.safetensors"
    weights = load_weights(path)
    fraction, seed = _held_out_by(weights.info, run)
    dataset = _as_trained(dataset, weights.info, run)
    dataset = with_training_votes(dataset, weights.info, run, votes)
    loss = Loss(target=learnt_target(weights.info.recipe))
    require_votes(dataset, loss)
    held_out, dropped = _held_out(dataset, fraction, seed)
    rows, targets = _targets(held_out, loss)
    logits = _logits(path, rows.images, "held-out rows", reporter)
    found = confidence_of(logits, targets, accuracy=accuracy)
    content: dict[str, Any] = {
        "method": METHOD,
        "fitted_on": {
            "split": "train, held out",
            "fraction": fraction,
            "seed": seed,
            "n": len(rows),
            "dropped_test_duplicates": dropped,
            "dataset_sha256": dataset.sha256,
            **({"labels": "votes"} if weights.info.by_votes else {}),
        },
        **found.to_dict(),
        "public": _on_public(path, dataset, found, loss, reporter),
    }
    info = msgspec.structs.replace(
        weights.info,
        confidence=read_record(ConfidenceInfo, plain(content), "confidence"),
        without_confidence_sha256=weights.sha256,
    )
    save_scaled(weights, run / CONFIDENCE_WEIGHTS, found.temperature, info)
    for name in CONFIDENCE_FILES[1:]:
        (run / name).unlink(missing_ok=True)
    return content


def _held_out_by(info: WeightsInfo, run: Path) -> tuple[float, int]:
    if info.holdout is None:
        raise UsageError(
            f"{run} was trained on all of TRAIN: there are no images to fit a confidence on",
            fix="train with a held-out part: fer-edge train --set data.holdout=0.05",
        )
    return info.holdout


def _as_trained(dataset: FerDataset, info: WeightsInfo, run: Path) -> FerDataset:
    from fer_edge.data.fitted import require_fitted_to
    from fer_edge.data.resplitting import resplit_as_recorded

    dataset = resplit_as_recorded(dataset, info.dataset, str(run))
    fix = "give the --data that it was trained on"
    require_fitted_to(dataset, info.dataset.sha256, str(run), fix=fix)
    return dataset


def _held_out(dataset: FerDataset, fraction: float, seed: int) -> tuple[FerDataset, int]:
    """Return the rows to fit on, and how many were left out since a test split has them, too."""
    from fer_edge.data import Split
    from fer_edge.data.dataset import image_keys
    from fer_edge.data.fitted import only_holdout

    rows = only_holdout(dataset.select(Split.TRAIN), fraction, seed)
    tests = set(image_keys(dataset.images[dataset.split != Split.TRAIN]).tolist())
    fresh = [key not in tests for key in image_keys(rows.images).tolist()]
    return rows.take(np.flatnonzero(fresh)), fresh.count(False)


def _on_public(
    path: Path, dataset: FerDataset, found: Confidence, loss: Loss, reporter: Reporter
) -> dict[str, Any]:
    """Judge what was fitted, on images that had no part in it."""
    public, targets = _targets(dataset.select("public"), loss)
    logits = _logits(path, public.images, "PUBLIC", reporter)
    judged = confidence_of(logits, targets, accuracy=found.accuracy, temperature=found.temperature)
    content = judged.to_dict()
    for name in ("temperature", "at_bound", "target"):
        del content[name]
    scaled = logits.astype(np.float64) / found.temperature

    def at(threshold: float) -> dict[str, Any]:
        return selective(scaled, targets, threshold).to_dict()

    # At the thresholds that were fitted on the held-out rows.
    content["abstain"] = at(found.abstain.threshold) if found.abstain else None
    content["curve"] = [at(point.threshold) for point in found.curve]
    return content


def _targets(rows: FerDataset, loss: Loss) -> tuple[FerDataset, np.ndarray]:
    """Return the rows that have what the network learnt, and this: labels u8[N], or f32[N,C]."""
    return (rows, rows.labels) if loss.target == "label" else fitted_targets(rows, loss)


def _logits(path: Path, images: np.ndarray, what: str, reporter: Reporter) -> np.ndarray:
    from fer_edge.backends.pytorch import PyTorchBackend
    from fer_edge.measure.accuracy import run_logits

    with PyTorchBackend(path) as backend:
        return run_logits(backend, images, batch=_BATCH, advance=reporter.stage(what))
