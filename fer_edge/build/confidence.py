"""A run's confidence: temperature and abstain threshold, fitted on the rows that it never saw.

The rows are the held-out part of TRAIN that the run's recipe left out of training. The result is a
second weights file in the run, with the temperature folded into the last layer. All later builds
use it: the logits of the weights and of all graphs are then divided by the temperature, without
extra computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fer_edge.build.votes import with_training_votes
from fer_edge.data.ferplus.majority import with_majority
from fer_edge.errors import UsageError, require
from fer_edge.files import temporary_folder
from fer_edge.measure.confidence import ACCURACY, Confidence, confidence_of, selective
from fer_edge.measure.prior import AUTO, adjusted, chosen_tau, parse_prior, prior_curve
from fer_edge.progress import SILENT, Reporter
from fer_edge.provenance import ConfidenceInfo, PriorInfo, WeightsInfo, learnt_target
from fer_edge.records import plain, read_record, to_dict
from fer_edge.runs.folder import CONFIDENCE_FILES, CONFIDENCE_WEIGHTS, RunFolder
from fer_edge.runs.recipe import Loss
from fer_edge.training.vote_targets import fitted_targets, require_votes

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["fit_confidence", "fit_prior", "write_fitted"]

METHOD = "temperature scaling (Guo et al. 2017, arXiv 1706.04599), least NLL"
_BATCH = 64


def fit_confidence(
    run: Path,
    dataset: FerDataset,
    *,
    accuracy: float = ACCURACY,
    prior: str | None = None,
    votes: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Fit temperature and threshold, write ``confidence.safetensors``, return what it records.

    ``accuracy`` (a fraction) is what the answers above the abstain threshold shall reach.
    ``dataset`` is the whole set that the run was trained on: its held-out rows are found again.
    Rows whose pixels are also in PUBLIC or PRIVATE are left out. PUBLIC only judges what was
    fitted (``public`` in the result); PRIVATE's labels are not read. ``prior`` is natural,
    balanced, auto or a number (:mod:`fer_edge.measure.prior`); it is corrected first, and its
    record is ``prior`` in the result. A run that learnt votes is fitted to their shares; ``votes``
    is their file, None the one that the run recorded. Raises UsageError for a run that trained on
    all of TRAIN, and DataError for another data set.
    """
    # Locked: a run that trains has other weights a moment later, and writes run.json, too.
    with RunFolder(run).locked(), temporary_folder("confidence") as folder:
        fitted = folder / CONFIDENCE_WEIGHTS
        content = write_fitted(
            run / "model.safetensors",
            fitted,
            dataset,
            run=run,
            accuracy=accuracy,
            prior=prior,
            votes=votes,
            reporter=reporter,
        )
        RunFolder(run).write_weights({CONFIDENCE_WEIGHTS: fitted.read_bytes()})
    for name in CONFIDENCE_FILES[1:]:
        (run / name).unlink(missing_ok=True)
    return content


def write_fitted(
    path: Path,
    out: Path,
    dataset: FerDataset,
    *,
    run: Path,
    accuracy: float = ACCURACY,
    prior: str | None = None,
    votes: str | Path | None = None,
    reporter: Reporter = SILENT,
) -> dict[str, Any]:
    """Write the weights ``path`` with a fitted confidence to ``out``; return what they record.

    ``run`` names the network in errors; the rest is as in :func:`fit_confidence`. ``path`` may have
    a temperature and a prior already: both are fitted again.
    """
    for module in ("torch", "safetensors"):
        require(module, "train")
    from fer_edge.models.temperature import save_scaled
    from fer_edge.models.weights import load_weights

    weights = load_weights(path)
    fraction, seed = _held_out_by(weights.info, run)
    dataset = _as_trained(dataset, weights.info, run)
    dataset = with_training_votes(dataset, weights.info, run, votes)
    loss = Loss(target=learnt_target(weights.info.recipe))
    require_votes(dataset, loss)
    held_out, dropped = _held_out(dataset, fraction, seed)
    every = _Before.of(weights.info).undone(_logits(path, held_out.images, "held-out", reporter))
    rows, targets = _targets(held_out, loss)
    chosen = None
    if prior is not None:
        shares, n = _learnt_shares(dataset, fraction, seed, loss)
        chosen = fit_prior(prior, held_out, every, shares, n, by_votes=weights.info.by_votes)
    shift = _shift(chosen, dataset.classes.names)
    found = confidence_of(every[_rows_of(held_out, rows)] - shift, targets, accuracy=accuracy)
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
    }
    public, judges = _targets(dataset.select("public"), loss)
    logits = _Before.of(weights.info).undone(_logits(path, public.images, "PUBLIC", reporter))
    content["public"] = _on_public(logits - shift, judges, found)
    info = msgspec.structs.replace(
        weights.info,
        confidence=read_record(ConfidenceInfo, plain(content), "confidence"),
        prior=chosen,
        without_confidence_sha256=weights.sha256,
    )
    before = _Before.of(weights.info)
    save_scaled(
        weights,
        out,
        found.temperature / before.temperature,
        info,
        None if chosen is None and before.prior is None else before.moved(shift),
    )
    return content if chosen is None else {**content, "prior": to_dict(chosen)}


@dataclass(frozen=True)
class _Before:
    """The temperature and the prior that weights have already: logits = (z - shift) / T."""

    temperature: float
    prior: PriorInfo | None
    names: tuple[str, ...]

    @classmethod
    def of(cls, info: WeightsInfo) -> _Before:
        confidence = info.confidence
        temperature = None if confidence is None else confidence.temperature
        return cls(temperature or 1.0, info.prior, info.dataset.labels)

    def undone(self, logits: np.ndarray) -> np.ndarray:
        """Return z, f64[N,C]: the logits as they were trained."""
        if self.temperature == 1.0 and self.prior is None:
            return logits
        return logits.astype(np.float64) * self.temperature + _shift(self.prior, self.names)

    def moved(self, shift: np.ndarray | float) -> np.ndarray:
        """Return what to take from the current logits for a new ``shift`` of z."""
        return np.asarray((shift - _shift(self.prior, self.names)) / self.temperature, np.float64)


def _shift(prior: PriorInfo | None, names: Sequence[str]) -> np.ndarray | float:
    if prior is None or prior.tau == 0:
        return 0.0
    # By name: the keys of a file's header are sorted.
    shares = np.array([prior.shares[name] for name in names])
    shift: np.ndarray = -adjusted(np.zeros((1, len(shares))), shares, prior.tau)[0]
    return shift


def fit_prior(
    choice: str,
    held_out: FerDataset,
    logits: np.ndarray,
    shares: np.ndarray,
    n: int,
    *,
    by_votes: bool,
) -> PriorInfo:
    """Return the prior that ``choice`` means, with its curve on the ``held_out`` images of TRAIN.

    ``logits`` f32[N,C] are the network's, as trained; ``shares`` f64[C] those of the classes in the
    ``n`` images that it learnt. ``by_votes``: the majority of the votes judges.
    """
    tau = parse_prior(choice)
    judged = with_majority(held_out) if by_votes else held_out
    logits, labels = logits[_rows_of(held_out, judged)], judged.labels.astype(np.int64)
    if tau == AUTO:
        tau = chosen_tau(logits, labels, shares)
    assert isinstance(tau, float)
    # A class that was never learnt has no curve; natural is then all that can be chosen.
    names = held_out.classes.names
    curve = prior_curve(logits, labels, shares, names=names) if (shares > 0).all() else ()
    adjusted(logits[:1], shares, tau)
    return PriorInfo(
        tau=tau,
        choice=choice.strip().lower(),
        shares=dict(zip(names, shares.tolist())),
        n=n,
        curve=curve,
        held_out=len(judged),
    )


def _learnt_shares(
    dataset: FerDataset, fraction: float, seed: int, loss: Loss
) -> tuple[np.ndarray, int]:
    """Return the classes' shares f64[C] of what was learnt, and of how many images."""
    from fer_edge.data.fitted import without_holdout

    rows = without_holdout(dataset.select("train"), fraction, seed)
    _, targets = fitted_targets(rows, loss)
    shares: np.ndarray = targets.mean(axis=0, dtype=np.float64)
    return shares, len(targets)


def _rows_of(whole: FerDataset, part: FerDataset) -> np.ndarray:
    """Return i64[len(part)]: the rows of ``whole`` that ``part`` has, in the same order."""
    kept = set(part.ids)
    return np.array([i for i, name in enumerate(whole.ids) if name in kept], dtype=np.int64)


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


def _on_public(logits: np.ndarray, targets: np.ndarray, found: Confidence) -> dict[str, Any]:
    """Judge what was fitted, on images that had no part in it."""
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
