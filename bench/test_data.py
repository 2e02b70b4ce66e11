"""The times of the first read and of a read from the cache, per format; audit and calibration.

They use the real FER2013 if FER_EDGE_DATA is set, else synthetic faces in the same layout. The
benchmark's ``extra_info`` has the source and the number of images.
"""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from fer_edge.data import FerDataset, Split, load, load_calibration_recipe, select_calibration
from fer_edge.data.audit import audit
from fer_edge.data.synthetic import synthetic_faces

PREFIX = {Split.TRAIN: "Training", Split.PUBLIC: "PublicTest", Split.PRIVATE: "PrivateTest"}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("FER_EDGE_CACHE")
    os.environ["FER_EDGE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["FER_EDGE_CACHE"]
    else:
        os.environ["FER_EDGE_CACHE"] = before


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("FER_EDGE_DATA"):
        return Path(given)
    path = tmp_path_factory.mktemp("data") / "synthetic.zip"
    faces = synthetic_faces(2100)
    with zipfile.ZipFile(path, "w") as archive:
        for image, split, label, name in zip(faces.images, faces.split, faces.labels, faces.ids):
            folder = "train" if split == Split.TRAIN else "test"
            emotion = list(faces.counts()["train"])[label]
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, "JPEG")
            member = f"{folder}/{emotion}/{PREFIX[Split(int(split))]}_{name}.jpg"
            archive.writestr(member, buffer.getvalue())
    return path


@pytest.fixture(scope="module")
def faces(source: Path) -> FerDataset:
    return load(source)


@pytest.fixture(scope="module")
def folder(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not zipfile.is_zipfile(source):
        pytest.skip("FER_EDGE_DATA is not a zip file")
    path = tmp_path_factory.mktemp("folder")
    with zipfile.ZipFile(source) as archive:
        archive.extractall(path)
    return path


@pytest.fixture(scope="module")
def csv_file(faces: FerDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("csv") / "fer2013.csv"
    usage = {split: f"{prefix}\n" for split, prefix in PREFIX.items()}
    with open(path, "w") as file:
        file.write("emotion,pixels,Usage\n")
        for image, label, split in zip(faces.images, faces.labels, faces.split):
            pixels = " ".join(map(str, image.reshape(-1).tolist()))
            file.write(f"{label},{pixels},{usage[Split(int(split))]}")
    return path


def note(benchmark: BenchmarkFixture, faces: FerDataset) -> None:
    benchmark.extra_info.update(source=faces.source, images=len(faces))


def test_read_zip_first_time(benchmark: BenchmarkFixture, source: Path) -> None:
    note(benchmark, benchmark.pedantic(load, (source,), {"cache": False}, rounds=2))


def test_read_zip_from_the_cache(benchmark: BenchmarkFixture, source: Path) -> None:
    load(source)
    note(benchmark, benchmark.pedantic(load, (source,), rounds=5))


def test_read_folder_first_time(benchmark: BenchmarkFixture, folder: Path) -> None:
    note(benchmark, benchmark.pedantic(load, (folder,), {"cache": False}, rounds=1))


def test_read_folder_from_the_cache(benchmark: BenchmarkFixture, folder: Path) -> None:
    load(folder)
    note(benchmark, benchmark.pedantic(load, (folder,), rounds=3))


def test_read_csv_first_time(benchmark: BenchmarkFixture, csv_file: Path) -> None:
    note(benchmark, benchmark.pedantic(load, (csv_file,), {"cache": False}, rounds=1))


def test_draw_synthetic_faces(benchmark: BenchmarkFixture) -> None:
    note(benchmark, benchmark.pedantic(synthetic_faces, (1280,), rounds=3, warmup_rounds=1))


def test_audit(benchmark: BenchmarkFixture, faces: FerDataset) -> None:
    note(benchmark, faces)
    benchmark.pedantic(audit, (faces,), rounds=1)


def test_select_calibration(benchmark: BenchmarkFixture, faces: FerDataset) -> None:
    note(benchmark, faces)
    recipe = load_calibration_recipe("stratified-512")
    benchmark.pedantic(select_calibration, (faces, recipe), rounds=3)
