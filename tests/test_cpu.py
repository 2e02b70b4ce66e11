"""CPU features are read from Linux's own list, and nothing is invented."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_edge.cpu import cpu_features, fitting_weights, int8_dot_saturates

X86 = "processor\t: 0\nflags\t\t: fpu avx avx2 {extra}\n\nprocessor\t: 1\nflags\t: avx2 amx_int8\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm bf16\n"


@pytest.mark.parametrize(
    ("text", "features", "saturates", "weights"),
    [
        (X86.format(extra=""), {"avx2"}, True, "saturation-safe"),
        (
            X86.format(extra="avx512f avx512_vnni"),
            {"avx2", "avx512f", "avx512_vnni"},
            False,
            "full",
        ),
        (X86.format(extra="avx_vnni"), {"avx2", "avx_vnni"}, False, "full"),
        (ARM, {"asimd", "asimddp", "i8mm", "bf16"}, False, "full"),
        ("nothing here\n", set(), False, "saturation-safe"),
    ],
)
def test_features(
    tmp_path: Path, text: str, features: set[str], saturates: bool, weights: str
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert cpu_features(path) == features
    assert int8_dot_saturates(cpu_features(path)) is saturates
    assert fitting_weights(cpu_features(path))[0] == weights


def test_no_cpuinfo(tmp_path: Path) -> None:
    assert cpu_features(tmp_path / "none") == frozenset()


def test_this_machine_answers() -> None:
    assert isinstance(int8_dot_saturates(), bool)
