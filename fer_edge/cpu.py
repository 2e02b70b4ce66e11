"""The vector instructions of this CPU. The speed and the exactness of INT8 depend on them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

__all__ = ["CPU_FEATURES", "cpu_features", "fitting_weights", "int8_dot_saturates"]

CPU_FEATURES: tuple[str, ...] = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
)
"""The features that matter to inference, under Linux's own names (x86, then ARM: ``asimd`` is NEON,
``asimddp`` its dot product)."""

_INT8_DOT = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})


def cpu_features(cpuinfo: Path | str = "/proc/cpuinfo") -> frozenset[str]:
    """Return those of :data:`CPU_FEATURES` that this CPU has; empty if Linux does not list them."""
    return _read(str(cpuinfo))


def int8_dot_saturates(features: frozenset[str] | None = None) -> bool:
    """Return True if u8 x s8 products can saturate here (x86 without VNNI or AMX).

    On such a CPU ``vpmaddubsw`` adds two u8*s8 products in 16 bits, and weights with more than 7
    bits can overflow. The logits then differ from those on a CPU with VNNI, or on ARM.
    """
    present = cpu_features() if features is None else features
    return "avx2" in present and not present & _INT8_DOT


def fitting_weights(features: frozenset[str] | None = None) -> tuple[str, str]:
    """Return the kind of INT8 weights that fits this CPU, and the reason.

    ``full`` where 8-bit products are added in 32 bits, ``saturation-safe`` where they can overflow
    and where the features are not known: such weights are right on every CPU.
    """
    present = cpu_features() if features is None else features
    exact = sorted(present & _INT8_DOT) or sorted(present & {"asimd"})
    if exact:
        return "full", f"this CPU has {exact[0]}, which adds INT8 products without overflow"
    if present:
        return "saturation-safe", "this CPU has no VNNI and no AMX, so full weights can overflow"
    return "saturation-safe", "the features of this CPU are not known, and these fit every CPU"


@lru_cache(maxsize=8)
def _read(cpuinfo: str) -> frozenset[str]:
    try:
        text = Path(cpuinfo).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:
            return frozenset(value.split()) & frozenset(CPU_FEATURES)
    return frozenset()
