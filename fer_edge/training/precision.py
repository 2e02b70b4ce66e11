"""Which floating-point type to train in: one that the device computes fast."""

from __future__ import annotations

from dataclasses import dataclass

from fer_edge.errors import UnavailableError

__all__ = ["Precision", "bf16_feature", "resolve_precision"]


@dataclass(frozen=True)
class Precision:
    """``name`` is fp32, bf16 or fp16 (autocast); ``reason`` is shown to the user."""

    name: str
    reason: str


def bf16_feature(features: frozenset[str]) -> str | None:
    """Return which of these CPU features multiplies bfloat16 in hardware, or None.

    Without one it is emulated, and several times slower than fp32.
    """
    return next((name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in features), None)


def resolve_precision(wanted: str, device: str, feature: str | None) -> Precision:
    """Choose for ``device`` (``cpu``, ``cuda`` or another of torch's); ``wanted`` as in a recipe.

    ``feature`` is the feature that makes bfloat16 fast on that device, or None. A type that was
    given is used, with a warning in its reason if it will be slow; fp16 on a CPU raises
    :class:`UnavailableError`.
    """
    name = "CPU" if device == "cpu" else "GPU"
    if wanted == "auto":
        if feature is not None:
            return Precision("bf16", f"this {name} has {feature}")
        if device == "cuda":
            return Precision("fp16", "this GPU has no bfloat16")
        return Precision("fp32", f"this {name} has no bfloat16, and would emulate it slowly")
    if wanted == "fp16" and device == "cpu":
        raise UnavailableError(
            "training in fp16 needs a GPU", fix='set run.precision to "auto", "bf16" or "fp32"'
        )
    if wanted == "bf16" and feature is None:
        return Precision("bf16", f"as requested; this {name} emulates it, which is slow")
    return Precision(wanted, "as requested")
