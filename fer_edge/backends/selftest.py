"""Replay a bundle's golden inputs on the engine that will serve: does it compute the same network?

The reference logits are the FP32 network's. FP32 and FP16 engines must meet them within the limits
of the design; an INT8 engine differs by its quantisation, and by CPU, so it is judged on what no
working engine loses: the logits stay close on the scale of their own spread, and a label that the
reference is sure of stays. FP16 and INT8 are judged by the median image, since some golden inputs
(blank, noise, checkerboard) lie outside of what quantisation was calibrated for, while a broken
engine is broken on most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fer_edge.backends.base import Backend
from fer_edge.bundle import Bundle
from fer_edge.cpu import int8_dot_saturates
from fer_edge.errors import NumericsError

__all__ = ["SelfTest", "judge_self_test", "self_test"]

FP32_MAX_ABS = 1e-4
FP16_TYPICAL_ABS = 1e-2
INT8_TYPICAL_SHARE = 0.25
"""Typical |delta logit| of INT8 as a share of the reference logits' standard deviation."""
INT8_CORRELATION = 0.95
INT8_AGREEMENT = 0.8
"""On images whose two best reference logits are more than one standard deviation apart."""


@dataclass(frozen=True)
class SelfTest:
    """How an engine's logits differ from the reference's on the golden inputs.

    ``typical_abs`` is the median over images of their mean |delta logit|, ``correlation`` the
    median of their correlations over the seven logits. ``spread`` is the standard deviation of the
    reference logits; ``sure_agreement`` the share of equal labels among the images of which the
    reference is sure, 1.0 if there are none.
    """

    count: int
    max_abs: float
    typical_abs: float
    spread: float
    correlation: float
    sure_agreement: float


def self_test(backend: Backend, bundle: Bundle) -> SelfTest:
    """Run the golden inputs through a loaded backend, one by one as a camera would, and judge.

    :class:`NumericsError` if the engine does not compute the bundle's network.
    """
    images, reference = bundle.golden()
    logits = np.concatenate([backend.infer(images[i : i + 1]) for i in range(len(images))])
    return judge_self_test(logits, reference, backend)


def judge_self_test(
    logits: np.ndarray, reference: np.ndarray, backend: Backend, *, file: str | None = None
) -> SelfTest:
    """Compare f32[G,7] with the reference's; :class:`NumericsError` beyond the precision's limits.

    ``backend`` names the engine and its precision; ``file`` is what a message calls its file,
    which by default is its path.
    """
    engine = f"{backend.name} {backend.precision} ({file or backend.path})"
    if logits.shape != reference.shape or not np.isfinite(logits).all():
        raise NumericsError(
            f"{engine} gave logits that are not finite numbers of shape {list(reference.shape)}",
            fix="build the engine again on this machine: fer-edge build",
        )
    result = _compare(logits, reference)
    # Limits are for logits of the size that trained networks give; rounding grows with them.
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
    """Return each image's correlation, 0 where a row is constant."""
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
        return f"this CPU has no VNNI, where INT8 products can saturate; {build} --precision int8"
    return build
