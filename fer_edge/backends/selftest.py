"""The self-test: run the golden inputs of a bundle and compare the logits with the reference.

The reference logits come from the FP32 network. FP32 and FP16 engines must match them within fixed
limits. INT8 logits differ by quantisation and by CPU, so the limits of INT8 are relative: the
differences must be small compared with the spread of the logits, and labels with a high reference
confidence must not change. FP16 and INT8 are judged by the median image: calibration did not cover
some golden inputs (blank, noise, checkerboard), and a broken engine fails on most images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_edge.backends.base import Backend
from fer_edge.bundle import Bundle
from fer_edge.cpu import int8_dot_saturates
from fer_edge.errors import NumericsError

__all__ = ["SelfTest", "judge_self_test", "self_test"]

FP32_MAX_ABS = 5e-4
"""Runtimes sum in different orders, and a network can magnify that: on a Zen 4, OpenVINO's pooling
of a blank image differed from ONNX Runtime's by 3.5e-5, and logits of 25 behind it by 4.9e-4."""
FP16_TYPICAL_ABS = 1e-2
INT8_TYPICAL_SHARE = 0.25
"""Limit of the typical |delta logit| of INT8, as a fraction of the reference logits' deviation."""
INT8_CORRELATION = 0.95
INT8_AGREEMENT = 0.8
"""For images whose two best reference logits differ by more than one standard deviation."""


@dataclass(frozen=True)
class SelfTest:
    """Differences between the logits of an engine and of the reference on the golden inputs.

    ``typical_abs`` is the median over images of the mean |delta logit|. ``correlation`` is the
    median over images of the correlation of the logits. ``spread`` is the standard deviation
    of the reference logits. ``sure_agreement`` is the fraction of equal labels among the images
    with a high reference confidence, or 1.0 if there are none.
    """

    count: int
    max_abs: float
    typical_abs: float
    spread: float
    correlation: float
    sure_agreement: float


def self_test(backend: Backend, bundle: Bundle) -> SelfTest:
    """Run the golden inputs on a loaded backend, one by one as with a camera, and judge.

    Raises :class:`NumericsError` if the engine does not compute the bundle's network.
    """
    images, reference = bundle.golden()
    logits = np.concatenate([backend.infer(images[i : i + 1]) for i in range(len(images))])
    return judge_self_test(logits, reference, backend)


def judge_self_test(
    logits: np.ndarray, reference: np.ndarray, backend: Backend, *, file: str | None = None
) -> SelfTest:
    """Compare logits f32[G,C] with the reference's.

    Raises :class:`NumericsError` beyond the limits of the precision. ``backend`` gives the engine
    and its precision; ``file`` is its name in messages, by default its path.
    """
    engine = f"{backend.name} {backend.precision} ({file or backend.path})"
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        raise NumericsError(
            f"{engine} gave logits that are not finite numbers of shape {list(reference.shape)}",
            fix="build the engine again on this machine: fer-edge build",
        )
    result = _compare(logits, reference)
    # The limits are for the usual size of logits; rounding errors grow with the logits.
    scale = max(1.0, float(np.abs(reference).max()) / 10)
    problems = []
    if backend.precision == "fp32":
        limit = FP32_MAX_ABS * scale
        if result.max_abs > limit:
            problems.append(f"max |delta logit| {result.max_abs:.2g} > {limit:.2g}")
    else:
        half = backend.precision == "fp16"
        limit = FP16_TYPICAL_ABS * scale if half else INT8_TYPICAL_SHARE * result.spread
        if result.typical_abs > limit:
            problems.append(f"typical |delta logit| {result.typical_abs:.2g} > {limit:.2g}")
        if result.correlation < INT8_CORRELATION:
            problems.append(f"correlation {result.correlation:.3f} < {INT8_CORRELATION}")
        if result.sure_agreement < INT8_AGREEMENT:
            problems.append(f"label agreement {result.sure_agreement:.0%} < {INT8_AGREEMENT:.0%}")
    if problems:
        raise NumericsError(
            f"{engine} fails the self-test on {result.count} golden images: {'; '.join(problems)}",
            fix=_fix(backend),
        )
    return result


def _compare(logits: np.ndarray, reference: np.ndarray) -> SelfTest:
    delta = np.abs(logits.astype(np.float64) - reference)
    spread = float(reference.std())
    best = np.sort(reference, axis=1)
    sure = best[:, -1] - best[:, -2] > spread
    same = logits.argmax(1) == reference.argmax(1)
    return SelfTest(
        count=len(reference),
        max_abs=float(delta.max()),
        typical_abs=float(np.median(delta.mean(1))),
        spread=spread,
        correlation=float(np.median(_correlations(logits, reference))),
        sure_agreement=float(same[sure].mean()) if sure.any() else 1.0,
    )


def _correlations(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the correlation of each image; 0 for a constant row."""
    ours = logits - logits.mean(1, keepdims=True, dtype=np.float64)
    theirs = reference - reference.mean(1, keepdims=True, dtype=np.float64)
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    products: np.ndarray = (ours * theirs).sum(1)
    correlations = np.zeros_like(products)
    np.divide(products, norms, out=correlations, where=norms > 0)
    return correlations


def _fix(backend: Backend) -> str:
    build = "build the engine again on this machine: fer-edge build"
    if backend.precision == "int8" and int8_dot_saturates():
        return f"INT8 products can saturate on this CPU (no VNNI); {build} --precision int8"
    return build
