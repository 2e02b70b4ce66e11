"""The golden self-test lets every working engine pass and stops every broken one."""

from __future__ import annotations

import numpy as np
import pytest
from fixtures_bundle import TinyNet, golden_images

from fer_edge.backends import backend_from_bundle
from fer_edge.backends.null import NullBackend
from fer_edge.backends.selftest import SelfTest, judge_self_test, self_test
from fer_edge.bundle import Bundle
from fer_edge.errors import NumericsError

IMAGES = golden_images(32)
REFERENCE = TinyNet().logits(IMAGES)
SPREAD = float(REFERENCE.std())


def judge(precision: str, logits: np.ndarray) -> SelfTest:
    return judge_self_test(
        logits.astype(np.float32), REFERENCE, NullBackend(None, precision=precision)
    )


def noise(size: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, size, REFERENCE.shape)


def test_a_good_engine(tiny_bundle: Bundle) -> None:
    for name, precision in (("onnxruntime", "fp32"), ("openvino", "int8")):
        with backend_from_bundle(tiny_bundle, name, precision) as backend:
            result = self_test(backend, tiny_bundle)
        assert result.max_abs < 1e-4
        assert result.sure_agreement == 1.0
        assert result.correlation == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("precision", "size"), [("fp32", 1e-5), ("fp16", 5e-3), ("int8", 0.05 * SPREAD)]
)
def test_what_precision_explains_passes(precision: str, size: float) -> None:
    result = judge(precision, REFERENCE + noise(size))
    assert 0 < result.max_abs <= 6 * size


@pytest.mark.parametrize(
    ("precision", "size"), [("fp32", 1e-3), ("fp16", 5e-2), ("int8", 0.5 * SPREAD)]
)
def test_what_it_does_not_explain_fails(precision: str, size: float) -> None:
    with pytest.raises(NumericsError, match="golden images") as caught:
        judge(precision, REFERENCE + noise(size))
    assert caught.value.exit_code == 4
    assert "fer-edge build" in str(caught.value.fix)


def test_int8_may_be_odd_on_odd_inputs() -> None:
    logits = REFERENCE.copy()
    logits[:6] += noise(3 * SPREAD)[:6]
    result = judge("int8", logits)
    assert result.max_abs > SPREAD, "the odd answers are in the result, and pass"


BROKEN = {
    "label order": REFERENCE[:, [0, 1, 2, 3, 4, 6, 5]],
    "labels turned by one": np.roll(REFERENCE, 1, axis=1),
    "another image": np.roll(REFERENCE, 1, axis=0)[:, ::-1],
    "zeros": np.zeros_like(REFERENCE),
    "constant": np.ones_like(REFERENCE),
    "another network": TinyNet(seed=5).logits(IMAGES),
    "no normalisation": TinyNet().logits(IMAGES // 128),
    "inverted pixels": TinyNet().logits(255 - IMAGES) * 3,
    "half of the scale": REFERENCE * 0.5,
    "not a number": np.where(np.arange(7) == 3, np.nan, REFERENCE),
    "infinite": np.where(np.arange(7) == 3, np.inf, REFERENCE),
    "too few": REFERENCE[:-1],
}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_engines(precision: str, fault: str) -> None:
    with pytest.raises(NumericsError):
        judge(precision, BROKEN[fault])


def test_the_fix_names_saturation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_edge.backends.selftest.int8_dot_saturates", lambda: True)
    with pytest.raises(NumericsError) as caught:
        judge("int8", REFERENCE[:, ::-1])
    assert "VNNI" in str(caught.value.fix)
