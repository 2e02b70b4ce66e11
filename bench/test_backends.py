"""The time of one image on each backend, and the time that ``Classifier.predict`` adds.

::

    OMP_NUM_THREADS=1 pytest bench/test_backends.py

Result is: pytest-benchmark's table per backend and precision, batch 1, one thread; the ``null`` row
is the time of an empty backend. The network is ``compact`` with random weights, on which latency
does not depend, or that of the bundle in FER_EDGE_BENCH_BUNDLE. Use this suite to compare commits.
To quote times, use ``fer-edge bench``.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from fer_edge.backends import backend_class, backend_from_bundle
from fer_edge.backends.base import softmax
from fer_edge.build.options import GateOptions
from fer_edge.bundle import Bundle
from fer_edge.classifier import Classifier
from fer_edge.data import load
from fer_edge.errors import UsageError

ENGINES = [
    ("null", "fp32"),
    ("pytorch", "fp32"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "fp16"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
    ("openvino", "int8"),
]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    named = os.environ.get("FER_EDGE_BENCH_BUNDLE")
    if named:
        return Bundle.open(named)
    from fer_edge.build.pipeline import build
    from fer_edge.models import build_model
    from fer_edge.models.spec import ModelSpec
    from fer_edge.models.weights import save_weights
    from fer_edge.preprocessing import Preprocessing

    folder = tmp_path_factory.mktemp("bench")
    spec = ModelSpec("compact")
    weights = folder / "model.safetensors"
    save_weights(weights, build_model(spec), spec, Preprocessing())
    out: str | Path = folder / "bundle"
    for precision, target in (
        ("fp16", "onnxruntime"),
        ("int8", "onnxruntime"),
        ("int8", "openvino"),
    ):
        build(
            weights,
            precision=precision,
            target=target,
            data="synthetic",
            output=out,
            gate=GateOptions(verify=False),
        )
    return Bundle.open(out)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return load("synthetic").images[:1024][:, None]


@pytest.mark.parametrize(("name", "precision"), ENGINES)
@pytest.mark.benchmark(group="infer one image")
def test_infer(
    benchmark: BenchmarkFixture, bundle: Bundle, images: np.ndarray, name: str, precision: str
) -> None:
    reason = backend_class(name).unavailable_reason()
    if reason:
        pytest.skip(reason)
    try:
        backend = backend_from_bundle(bundle, name, precision)
    except UsageError as error:
        pytest.skip(str(error))
    with backend:
        turn = iter(range(10**9))

        def one() -> np.ndarray:
            i = next(turn) % len(images)
            return softmax(backend.infer(images[i : i + 1]))

        for _ in range(100):
            one()
        benchmark(one)
        benchmark.extra_info["provider"] = backend.provider


@pytest.mark.benchmark(group="classifier")
def test_predict(benchmark: BenchmarkFixture, bundle: Bundle, images: np.ndarray) -> None:
    with Classifier(bundle) as classifier:
        turn = iter(range(10**9))
        benchmark(lambda: classifier.predict(images[next(turn) % len(images), 0]))
        benchmark.extra_info["precision"] = classifier.precision


@pytest.mark.benchmark(group="classifier")
def test_open(benchmark: BenchmarkFixture, bundle: Bundle) -> None:
    """Open a classifier: check the digests, load the engine, run the self-test."""
    benchmark.pedantic(lambda: Classifier(bundle.path).close(), rounds=5)


def test_what_predict_adds_to_a_bare_run(bundle: Bundle, images: np.ndarray) -> None:
    """Result is: the difference of two p50s, of calls that took turns in one run.

    All five blocks are printed, since other processes can disturb either call. On a quiet machine
    the difference should be at most 0.1 ms.
    """
    import onnxruntime

    with Classifier(bundle) as classifier:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(classifier.engine_path), options, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name
        blocks = []
        for _ in range(5):
            bare, whole = [], []
            for face in images:
                started = time.perf_counter_ns()
                session.run(None, {name: face[None]})
                between = time.perf_counter_ns()
                classifier.predict(face[0])
                ended = time.perf_counter_ns()
                bare.append(between - started)
                whole.append(ended - between)
            blocks.append((np.median(bare) / 1e6, np.median(whole) / 1e6))
    for run, predict in blocks:
        print(
            f"\n{classifier.precision}: session.run {run:.3f} ms, Classifier.predict {predict:.3f} "
            f"ms, added {predict - run:.3f} ms (p50 of {len(images):,}, interleaved)",
            end="",
        )
    assert len(blocks) == 5
