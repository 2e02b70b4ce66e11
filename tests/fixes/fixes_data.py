"""Advice about pictures and votes in trees, zips and tables: the data as the advice says."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from fixes_lab import Lab, case
from fixes_words import VOTES_HEADER, table
from PIL import Image

from fer_edge.data import FerDataset, load
from fer_edge.data.calibration import load_calibration_recipe
from fer_edge.data.ferplus.majority import with_majority
from fer_edge.data.readers_npz import npz_from_dataset
from fer_edge.data.resplit import Resplit
from fer_edge.data.resplitting import apply_resplit
from fer_edge.emotions import EMOTIONS
from fer_edge.measure.bench import _split_as_trained
from fer_edge.training.vote_targets import fitted_targets


def read(path: Path, classes: str = "fer2013", votes: Path | None = None) -> FerDataset:
    return load(path, cache=False, classes=classes, votes=votes)


def votes_file(lab: Lab, rows: int = 40, choices: str = "10,0,0,0,0,0,0,0,0,0") -> Path:
    lines = [f"Training,fer{row:07}.png,{choices}" for row in range(rows)]
    return lab.file("fer2013new.csv", "\n".join([VOTES_HEADER, *lines]) + "\n")


def packed(lab: Lab, folder: Path, **more: bytes) -> Path:
    """Pack a folder; ``more`` are files of its folder ``FER2013Train``."""
    path = lab.folder() / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
        for name, content in more.items():
            archive.writestr(f"FER2013Train/{name}.png", content)
    return path


@case
def sizes_of_pictures(lab: Lab) -> None:
    own = lab.tree("cat", "dog")
    large = own / "cat" / "large.png"
    Image.new("1", (9000, 8000)).save(large)
    lab.refused(lambda: read(own, "own"))
    Image.open(large).crop((0, 0, 90, 80)).save(large)
    lab.works(lambda: read(own, "own"))
    deep = lab.tree(*EMOTIONS)
    lab.pictures(deep / "happy" / "more")
    lab.refused(lambda: read(deep))
    for picture in (deep / "happy" / "more").iterdir():
        picture.rename(deep / "happy" / picture.name)
    lab.works(lambda: read(deep))


@case
def members_of_zips(lab: Lab) -> None:
    root = lab.tree(*EMOTIONS)
    good = packed(lab, root)
    content = bytearray(good.read_bytes())
    content[content.index(b"PK\1\2") + 10] = 97  # WavPack, which Python has not
    content[8] = 97
    other = lab.file("set.zip", bytes(content))
    lab.refused(lambda: read(other))
    lab.works(lambda: read(root))


@case
def images_of_ferplus(lab: Lab) -> None:
    def copy(folder: Path) -> Path:
        folder = folder / "FER2013Train"
        folder.mkdir(parents=True)
        for row in range(8):
            Image.fromarray(lab.gray + np.uint8(7 * row)).save(folder / f"fer{row:07}.png")
        return folder.parent

    both = lab.folder()
    first = copy(both / "a")
    copy(both / "b")
    right = votes_file(lab)
    lab.refused(lambda: read(both, votes=right))
    lab.works(lambda: read(first, votes=right))
    lab.refused(lambda: read(first))
    lab.works(lambda: read(first, votes=right))
    lab.works(lambda: load(table(lab), cache=False))
    other = votes_file(lab, choices="0,0,0,0,0,0,0,0,0,10")
    lab.refused(lambda: read(first, votes=other))
    lab.works(lambda: read(first, votes=right))
    face = first / "FER2013Train" / "fer0000009.png"
    Image.fromarray(lab.gray).resize((64, 64)).save(face)
    lab.refused(lambda: read(first, votes=right))
    Image.open(face).resize((48, 48)).save(face)
    lab.works(lambda: read(first, votes=right))
    face.write_bytes(face.read_bytes() + bytes(1 << 24))
    lab.refused(lambda: read(first, votes=right))
    face.unlink()
    lab.works(lambda: read(first, votes=right))
    huge = packed(lab, first, fer0000009=bytes(1 << 24))
    lab.refused(lambda: read(huge, votes=right))
    good = packed(lab, first)
    lab.works(lambda: read(good, votes=right))
    named = lab.tree(*EMOTIONS)
    lab.refused(lambda: read(named, votes=right))
    faces = table(lab, rows=40)
    lab.works(lambda: read(faces, votes=right))
    mixed = votes_file(lab, choices="1,1,1,1,1,1,1,1,1,1")
    undecided, decided = read(faces, votes=mixed), read(faces, votes=right)
    lab.refused(lambda: with_majority(undecided))
    lab.works(lambda: with_majority(decided))
    loss = SimpleNamespace(target="majority")
    lab.refused(lambda: fitted_targets(undecided, loss))  # type: ignore[arg-type]
    lab.works(lambda: fitted_targets(decided, loss))  # type: ignore[arg-type]


@case
def columns_and_classes(lab: Lab) -> None:
    pixels = [str(place % 256) for place in range(48 * 48)]
    names = ",".join(f"p{place}" for place in range(48 * 48))
    wide = lab.file("fer2013.csv", f"emotion,{names},Usage\n3,{','.join(pixels)},Training\n")
    lab.refused(lambda: load(wide, cache=False))
    joined = f"emotion,pixels,Usage\n3,{' '.join(pixels)},Training\n"
    lab.works(lambda: load(lab.file("fer2013.csv", joined), cache=False))
    tree = lab.tree("cat", "dog")
    saved = lab.folder() / "own.npz"
    npz_from_dataset(replace(read(tree, "own"), source="own.npz"), saved)
    lab.refused(lambda: read(saved, "dog,cat"))
    lab.works(lambda: load(saved, cache=False))
    lab.works(lambda: read(tree, "dog,cat"))
    recipe = lab.file("own.toml", 'count = "many"\n')
    fix = lab.refused(lambda: load_calibration_recipe(recipe))
    assert "takes" in fix
    recipe.write_text("count = 32\n")
    lab.works(lambda: load_calibration_recipe(recipe))
    lab.refused(lambda: load_calibration_recipe("zzzz"))
    lab.works(lambda: load_calibration_recipe(recipe))
    split = apply_resplit(Resplit("80/10/10"), lab.faces)
    bundles = [
        SimpleNamespace(path=Path(name), manifest=SimpleNamespace(name=name, dataset=info))
        for name, info in (("a", lab.faces.info()), ("b", split.info()))
    ]
    lab.refused(lambda: _split_as_trained(bundles, lab.faces))  # type: ignore[arg-type]
    for bundle in bundles:
        lab.works(lambda bundle=bundle: _split_as_trained([bundle], lab.faces))
    shutil.rmtree(tree)
