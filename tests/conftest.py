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


register_profile()


@pytest.fixture(scope="session", autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests out of the user's cache, but let CI share one decoded FER2013 between tests."""
    before = os.environ.get("FER_EDGE_CACHE")
    os.environ["FER_EDGE_CACHE"] = before or str(tmp_path_factory.mktemp("fer-edge-cache"))
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
