"""Which floating-point type to train in: what the device does fast, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fer_edge.errors import UnavailableError

__all__ = ["Precision", "cpu_bf16_feature", "resolve_precision"]


@dataclass(frozen=True)
class Precision:
    """``name`` is fp32, bf16 or fp16 (autocast); ``reason`` is for people."""

    name: str
    reason: str


def cpu_bf16_feature(cpuinfo: Path = Path("/proc/cpuinfo")) -> str | None:
    """Return the CPU feature that multiplies bfloat16 in hardware, or None.

    Without one, bf16 is emulated and several times slower than fp32.
    """
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux: no x86 with these features is sold for it any more
        return None
    flags = {
        flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()
    }
    return next((name for name in ("amx_bf16", "avx512_bf16") if name in flags), None)


def resolve_precision(wanted: str, device: str, *, bf16_feature: str | None) -> Precision:
    """Choose for ``device`` (``cpu``, ``cuda`` or another of torch's); ``wanted`` as in a recipe.

    ``bf16_feature`` names what makes bfloat16 fast on that device, or is None. A wish is
    honoured, with a warning in its reason when it will be slow; fp16 on a CPU is refused.
    """
    if wanted == "auto":
        if bf16_feature is not None:
            return Precision("bf16", f"the {device} has {bf16_feature}")
        if device == "cuda":
            return Precision("fp16", "this GPU has no bfloat16 units")
        return Precision("fp32", f"the {device} has no hardware for bfloat16")
    if wanted == "fp16" and device == "cpu":
        raise UnavailableError(
            "training in fp16 needs a GPU", fix='set run.precision to "auto", "bf16" or "fp32"'
        )
    if wanted == "bf16" and bf16_feature is None:
        return Precision("bf16", f"as asked; the {device} emulates it, expect it to be slow")
    return Precision(wanted, "as asked")
