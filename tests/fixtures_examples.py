"""The programs of examples/, and pictures for them: scikit-image's, or synthetic faces."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
from PIL import Image

from fer_edge.data import load

__all__ = ["EXAMPLES", "RunExample", "astronaut", "crops", "finder", "long_one", "run_example"]

long_one = pytest.mark.skipif(
    not os.environ.get("FER_EDGE_EXAMPLES"),
    reason="it takes most of a minute: make examples (FER_EDGE_EXAMPLES=1)",
)

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


class RunExample(Protocol):
    """Runs a program of an example in a process of its own; returns what it printed."""

    def __call__(self, program: str, *args: object) -> str: ...


@pytest.fixture
def run_example() -> RunExample:
    """What runs an example and wants exit code 0."""

    def run(program: str, *args: object) -> str:
        words = [sys.executable, str(EXAMPLES / program), *map(str, args)]
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    return run


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Files of 48x48 synthetic faces."""
    folder = tmp_path_factory.mktemp("crops")
    paths = [folder / f"{i:03}.png" for i in range(12)]
    for path, pixels in zip(paths, load("synthetic:70").images):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """u8[512,512,3]: scikit-image's photograph of one face, which is free to use."""
    if find_spec("skimage") is None:
        pytest.skip("scikit-image is not installed: pip install scikit-image")
    from skimage import data

    return np.asarray(data.astronaut())


@pytest.fixture(scope="session")
def finder() -> str:
    """A detector that is installed and finds the astronaut: OpenCV's is in the extra camera."""
    from fer_edge.faces.detect import DETECTORS

    for name in ("blazeface", "haar"):
        if all(map(find_spec, DETECTORS[name].packages)):
            return name
    pytest.skip("no face detector is installed: pip install 'fer-edge[camera]'")
