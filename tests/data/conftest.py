"""Small synthetic data sets in every format of FER2013."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_edge.data import FerDataset, Split, load
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.emotions import EMOTIONS

PREFIX = {Split.TRAIN: "Training", Split.PUBLIC: "PublicTest", Split.PRIVATE: "PrivateTest"}


def picture(image: np.ndarray, format_: str = "PNG") -> bytes:
    """The bytes of an image file; PNG keeps the pixels exactly."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format_)
    return buffer.getvalue()


class Forms:
    """Makes data sets, and writes them as zip, folder or CSV."""

    picture = staticmethod(picture)

    @staticmethod
    def faces(per_class: int = 2, *, seed: int = 0, splits: tuple[Split, ...] = tuple(Split)):
        """Random pixels, the classes in equal parts in each split."""
        random = np.random.default_rng(seed)
        rows = [(s, c, k) for s in splits for c in range(len(EMOTIONS)) for k in range(per_class)]
        return dataset_from_rows(
            random.integers(0, 256, (len(rows), 48, 48), dtype=np.uint8),
            np.array([label for _, label, _ in rows], dtype=np.uint8),
            np.array([split for split, _, _ in rows], dtype=np.uint8),
            [f"{EMOTIONS[label]}/{PREFIX[split]}_{k}" for split, label, k in rows],
            source="made up",
        )

    @staticmethod
    def files(faces: FerDataset) -> dict[str, bytes]:
        """Relative path -> bytes, in Kaggle's layout."""
        found = {}
        for image, split, id_ in zip(faces.images, faces.split, faces.ids):
            folder = "train" if split == Split.TRAIN else "test"
            found[f"{folder}/{id_}.png"] = picture(image)
        return found

    @staticmethod
    def zip(path: Path, files: Mapping[str, bytes]) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path

    @staticmethod
    def folder(path: Path, files: Mapping[str, bytes]) -> Path:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        return path

    @staticmethod
    def csv_text(
        faces: FerDataset,
        *,
        header: str = "emotion,pixels,Usage",
        quote: str = '"',
        newline: str = "\n",
    ) -> str:
        lines = [header]
        for image, label, split in zip(faces.images, faces.labels, faces.split):
            pixels = " ".join(map(str, image.reshape(-1).tolist()))
            lines.append(f"{label},{quote}{pixels}{quote},{PREFIX[Split(int(split))]}")
        return newline.join(lines) + newline


@pytest.fixture(scope="session")
def forms() -> Forms:
    return Forms()


@pytest.fixture(scope="session")
def fer2013(fer2013_source: Path) -> FerDataset:
    """The real FER2013, read once."""
    return load(fer2013_source)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("FER_EDGE_CACHE", str(cache))
    return cache


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run ``fer-edge data info SOURCE``; it must end with exit code 2 and no traceback."""
    from fer_edge.cli import main

    def run(source: Path | str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["data", "info", str(source)])
        captured = capsys.readouterr()
        assert stop.value.code == 2, captured.err
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert "Traceback" not in captured.err
        return captured.err

    return run
