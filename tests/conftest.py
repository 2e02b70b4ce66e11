"""Fixtures shared by all tests: the data sets, real where FER_EDGE_DATA names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_bundle import (
    _tiny_template,
    bundle_maker,
    no_pretrained,
    pretrained_bundle,
    tiny_bundle,
    tiny_net,
)
from fixtures_foreign import foreign_bundle
from fixtures_hypothesis import register_profile

__all__ = [
    "_tiny_template",
    "bundle_maker",
    "foreign_bundle",
    "no_pretrained",
    "pretrained_bundle",
    "tiny_bundle",
    "tiny_net",
]

HERE = Path(__file__).parent


register_profile()

LONGEST_FIRST = (
    "engines/test_cpp_fuzz.py",
    "cli/test_demo.py",
    "test_docs.py",
    "build/test_choosing.py",
    "build/test_foreign.py",
    "build/test_qat.py",
    "build/test_pipeline.py",
    "test_fixes.py",
    "engines/test_cpp_runner.py",
    "cli/test_classes.py",
    "training/test_resume.py",
    "training/test_processes.py",
    "convert/test_checkpoint.py",
    "convert/test_zoo.py",
    "trt/test_bundle_build.py",
    "bench/test_reproduction.py",
    "bundle/test_forged.py",
    "test_forged_records.py",
    "test_classifier_processes.py",
    "test_ship.py",
    "fuzz/test_fuzz.py",
    "cli/test_train.py",
    "cli/test_search.py",
    "cli/test_oserrors.py",
    "cli/test_bench.py",
    "faces/test_reading.py",
    "data/test_calibration.py",
    "data/test_ferplus.py",
)
"""Files of this folder that take longest, by ``--durations``; the others are short.

A worker of ``--dist loadfile`` gets whole files. If a long one came last, the others would wait.
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; within a file, and between the others, the order stays."""
    place = {HERE / name: k for k, name in enumerate(LONGEST_FIRST)}
    if gone := [str(path) for path in place if not path.exists()]:
        raise pytest.UsageError(f"LONGEST_FIRST names files that do not exist: {gone}")
    items.sort(key=lambda item: place.get(item.path, len(place)))


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests out of the user's cache; all workers share one, and so one decoded FER2013."""
    before = os.environ.get("FER_EDGE_CACHE")
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    (shared / "fer-edge-cache").mkdir(exist_ok=True)
    os.environ["FER_EDGE_CACHE"] = before or str(shared / "fer-edge-cache")
    yield
    if before is None:
        del os.environ["FER_EDGE_CACHE"]


@pytest.fixture(scope="session")
def fer2013_source() -> Path:
    """The path of a real FER2013; else skips the test, with the way to run it as the reason."""
    source = os.environ.get("FER_EDGE_DATA")
    if not source:
        pytest.skip("FER_EDGE_DATA is not set: the real FER2013 is needed")
    path = Path(source)
    assert path.exists(), f"FER_EDGE_DATA={source} does not exist"
    return path
