"""Advice in words: pairs of a wrong input and the input as the advice says."""

from __future__ import annotations

import gzip
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
from fixes_lab import Lab, case, pairs
from onnx import TensorProto, helper
from PIL import Image

from fer_edge.backends.base import check_images
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.classifier import Classifier
from fer_edge.convert.fp16 import fp16_from_onnx, half_precision
from fer_edge.convert.graph import read_graph
from fer_edge.convert.onnx_file import (
    outputs_of,
    parse_labels,
    parse_numbers,
    parse_scale,
    parse_size,
)
from fer_edge.data import CalibrationRecipe, FerDataset, load, select_calibration
from fer_edge.data.cache import cached_source
from fer_edge.data.calibration import load_calibration_recipe
from fer_edge.data.classes import class_choice, classes_as_recorded
from fer_edge.data.dataset import dataset_from_rows
from fer_edge.data.fer2013 import resolve_source
from fer_edge.data.holdout import holdout_mask
from fer_edge.data.resplit import Resplit
from fer_edge.data.resplitting import apply_resplit, resplit_as_recorded
from fer_edge.data.synthetic import parse_synthetic
from fer_edge.faces import face_from_image
from fer_edge.faces.boxes import read_boxes
from fer_edge.files import parse_toml
from fer_edge.measure.confidence import abstain_threshold, fit_temperature
from fer_edge.measure.prior import adjusted, parse_prior
from fer_edge.measure.views import view_logits
from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec
from fer_edge.paths import cache_dir, expanded
from fer_edge.pretrained import pretrained_path
from fer_edge.provenance import DatasetInfo, fold_of, fractions_of
from fer_edge.runs.recipe import load_recipe, with_overrides
from fer_edge.training.precision import resolve_precision
from fer_edge.training.replicas import replica_count
from fer_edge.training.search.space import load_space
from fer_edge.training.vote_targets import require_votes

# --- options and settings ---

pairs(
    "options_of_an_onnx_file",
    [
        (lambda: parse_labels("happy,"), lambda: parse_labels("happy,sad")),
        (
            lambda: parse_numbers("--mean", "1,2"),
            lambda: parse_numbers("--mean", "0.485,0.456,0.406"),
        ),
        (lambda: parse_scale("0"), lambda: parse_scale("1/255")),
        (lambda: parse_size("wide"), lambda: parse_size("64x48")),
        (lambda: parse_size("9999"), lambda: parse_size("1024")),
        (
            lambda: outputs_of(["a", "a"], None, "--labels"),
            lambda: outputs_of(["a", "b"], None, "--labels"),
        ),
        (
            lambda: outputs_of(["a", "b", "c"], ["a", "b"], "--labels"),
            lambda: outputs_of(["a", "b", "c="], ["a", "b"], "--labels"),
        ),
        (
            lambda: outputs_of(["a", "b", "c=b"], ["a", "b"], "--labels"),
            lambda: outputs_of(["a", "b", "c="], ["a", "b"], "--labels"),
        ),
        (
            lambda: outputs_of(["a", "b="], ["a", "b"], "--labels"),
            lambda: outputs_of(["a", "b"], ["a", "b"], "--labels"),
        ),
        (
            lambda: outputs_of(["a", "b=c=d"], None, "--labels"),
            lambda: outputs_of(["a", "b=c"], None, "--labels"),
        ),
    ],
)

pairs(
    "numbers_and_names",
    [
        (lambda: parse_prior("some"), lambda: parse_prior("balanced")),
        (
            lambda: adjusted(np.zeros((2, 2)), np.array([1.0, 0.0]), 1.0),
            lambda: adjusted(np.zeros((2, 2)), np.array([1.0, 0.0]), parse_prior("natural")),
        ),
        (lambda: fold_of("fold 3 of 2"), lambda: fold_of("fold 1 of 2")),
        (lambda: fractions_of("80/x"), lambda: fractions_of("80/10/10")),
        (lambda: Resplit("80/10/10", -1), lambda: Resplit("80/10/10", 0)),
        (lambda: parse_synthetic("synthetic:x"), lambda: parse_synthetic("synthetic:2000:1")),
        (lambda: parse_synthetic("synthetic:1"), lambda: parse_synthetic("synthetic:2000:1")),
        (lambda: pretrained_path("best"), lambda: pretrained_path("votes")),
        (
            lambda: load_recipe("nothing"),
            lambda: load_recipe("quick"),
        ),
        (lambda: load_recipe("defualt"), lambda: load_recipe("default")),
        (
            lambda: with_overrides(load_recipe("quick"), ["optim.lr"]),
            lambda: with_overrides(load_recipe("quick"), ["optim.lr=0.05"]),
        ),
        (
            lambda: with_overrides(load_recipe("quick"), ["model.options.x=2020-01-01"]),
            lambda: with_overrides(load_recipe("quick"), ['model.options.x="2020-01-01"']),
        ),
        (
            lambda: with_overrides(load_recipe("quick"), ["model.options.x=\udcff"]),
            lambda: with_overrides(load_recipe("quick"), ["model.options.x=text"]),
        ),
        (lambda: parse_toml("a = ", "a.toml"), lambda: parse_toml("a = 1", "a.toml")),
        (lambda: class_choice("a"), lambda: class_choice("cat,dog,bird")),
        (lambda: class_choice("fer2013,a"), lambda: class_choice("own")),
        (
            lambda: OnnxRuntimeBackend(None, threads="2"),  # type: ignore[arg-type]
            lambda: OnnxRuntimeBackend(None, threads=1),
        ),
        (
            lambda: OnnxRuntimeBackend(None, threads=10**9),
            lambda: OnnxRuntimeBackend(None, threads=os.cpu_count() or 1),
        ),
    ],
)


@case
def readings_of_an_answer(lab: Lab) -> None:
    logits, labels = np.eye(7)[np.arange(70) % 7] * 4, np.arange(70) % 7
    lab.refused(lambda: abstain_threshold(logits, labels, accuracy=80))
    lab.works(lambda: abstain_threshold(logits, labels, accuracy=0.8))
    lab.refused(lambda: fit_temperature(logits[:10], labels[:10]))
    lab.works(lambda: fit_temperature(logits, labels))
    engine = OnnxRuntimeBackend(lab.onnx)
    faces = lab.faces.images[:2]
    with engine:
        lab.refused(lambda: view_logits(engine, faces, "many"))
        lab.works(lambda: view_logits(engine, faces, "flip"))
        lab.refused(lambda: engine.infer(faces))
    with Classifier(lab.bundle().path, precision="fp32") as classifier:
        lab.works(lambda: classifier.predict(faces[0]))
        for wrong in (str(lab.face), faces[0], 3):
            lab.refused(lambda wrong=wrong: classifier.predict_batch(wrong))
            lab.works(lambda: classifier.predict_batch([faces[0]]))
    lab.refused(lambda: engine.infer(faces[:, None]))
    with engine:
        lab.works(lambda: engine.infer(faces[:, None]))
    assert check_images(faces[:, None]) is not None


@case
def settings_of_networks(lab: Lab) -> None:
    def build(name: str, **options: object) -> object:
        return build_model(ModelSpec(name, options))

    lab.refused(lambda: build("compact", widths=[8, 16], blocks=[1]))
    lab.works(lambda: build("compact", widths=[8, 16], blocks=[1, 1]))
    lab.refused(lambda: build("cbam", window=4))
    lab.works(lambda: build("cbam", window=7))
    lab.refused(lambda: build("cbam", widths=[4] * 7))
    lab.works(lambda: build("cbam", widths=[4] * 2))
    lab.refused(lambda: build("compcat"))
    lab.works(lambda: build("compact"))
    lab.refused(lambda: resolve_precision("fp16", "cpu", None))
    lab.works(lambda: resolve_precision("auto", "cpu", None))
    plain, dropping = build("compact"), build("compact", dropout=0.5)
    lab.refused(lambda: replica_count(2, dropping, 64, 2))  # type: ignore[arg-type]
    lab.works(lambda: replica_count(1, dropping, 64, 2))  # type: ignore[arg-type]
    lab.refused(lambda: replica_count(3, plain, 64, 2))  # type: ignore[arg-type]
    lab.works(lambda: replica_count(3, plain, 63, 2))  # type: ignore[arg-type]


@case
def search_spaces(lab: Lab) -> None:
    lab.refused(lambda: load_space("none"))
    space = lab.file("space.toml", "")
    lab.refused(lambda: load_space(space))
    text = '[space."optim.lr"]\ntype = "float"\nlow = 0.01\nhigh = 0.1\n'
    right = lab.file("space.toml", text)
    lab.works(lambda: load_space(right))


@case
def folders_of_this_user(lab: Lab) -> None:
    fix = lab.refused(lambda: expanded("~no-such-user/x"))
    lab.works(lambda: expanded(fix.rpartition(": ")[2]))
    environment = dict(os.environ)
    real = Path.home

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    try:
        for name in ("FER_EDGE_CACHE", "XDG_CACHE_HOME"):
            os.environ.pop(name, None)
        Path.home = none  # type: ignore[method-assign, assignment]
        lab.refused(cache_dir)
        os.environ["FER_EDGE_CACHE"] = str(lab.folder())
        lab.works(cache_dir)
    finally:
        Path.home = real  # type: ignore[method-assign]
        os.environ.clear()
        os.environ.update(environment)


# --- data sets ---


@case
def sources_of_data(lab: Lab) -> None:
    environment = os.environ.pop("FER_EDGE_DATA")
    try:
        lab.refused(lambda: resolve_source(None))
        lab.works(lambda: load(resolve_source("synthetic"), cache=False))
    finally:
        os.environ["FER_EDGE_DATA"] = environment
    synthetic = lambda: load("synthetic:140", cache=False)  # noqa: E731
    wrong = [
        lab.file("empty.csv", ""),
        lab.file("page.csv", "<!DOCTYPE html><html>"),
        lab.file("data.csv", pickle.dumps({"a": 1}, 4)),
        lab.file("text.dat", "nothing that is known"),
        lab.folder() / "missing.zip",
        Path("~no-such-user/fer2013.csv"),
    ]
    good = table(lab, rows=3)
    for path in wrong:
        lab.refused(lambda path=path: load(path, cache=False))
        lab.works(lambda: load(good, cache=False))
    for name in ("[Content_Types].xml", "archive/data.pkl"):
        path = lab.folder() / "file.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
        lab.refused(lambda path=path: load(path, cache=False))
        lab.works(lambda: load(good, cache=False))
    lab.refused(lambda: lab.faces.select("half"))
    lab.works(lambda: lab.faces.select("train"))
    train = lab.faces.select("train")
    lab.refused(lambda: train.select("public"))
    lab.works(lambda: train.select("train"))
    lab.refused(lambda: train.votes)
    lab.works(synthetic)


def table(
    lab: Lab, *, header: str = "emotion,pixels,Usage", rows: int = 1, name: str = "fer2013.csv"
) -> Path:
    """Write a table in the form of FER2013; each picture is another one."""
    lines = [header]
    for row in range(rows):
        pixels = " ".join(str((row + place) % 256) for place in range(48 * 48))
        lines.append(f"{row % 7},{pixels},Training")
    return lab.file(name, "\n".join(lines) + "\n")


@case
def tables(lab: Lab) -> None:
    good = table(lab)
    pixels = " ".join(["7"] * 48 * 48)
    votes = (
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,"
        "unknown,NF\nTraining,fer0000000.png,10,0,0,0,0,0,0,0,0,0\n"
    )
    wrong = [
        lab.file("fer2013.csv", f"emotion,pixels\n3,{pixels[:100]}\n"),
        lab.file("fer2013.csv", "emotion,pixels,Usage\n"),
        lab.file("fer2013.csv", f"emotion,pixels,emotion\n3,{pixels},4\n"),
        lab.file("fer2013.csv", f"emotion,pixels 3,{pixels}\n"),
        lab.file("fer2013.csv", f"pixels\n{pixels}\n"),
        lab.file("fer2013.csv", f"label,pixels\n3,{pixels}\n"),
        lab.file("fer2013.csv", "emotion,p0,p1\n3,7,7\n"),
    ]
    for path in wrong:
        lab.refused(lambda path=path: load(path, cache=False))
        lab.works(lambda: load(good, cache=False))
    file = lab.file("fer2013new.csv", votes)
    lab.refused(lambda: load(file, cache=False))
    faces = table(lab)
    lab.works(lambda: load(faces, cache=False, votes=file))
    for bad in (lab.folder(), lab.file("votes.csv", "a,b\n"), good, lab.file("v.zip", "PK\3\4")):
        lab.refused(lambda bad=bad: load(faces, cache=False, votes=bad))
        lab.works(lambda: load(faces, cache=False, votes=file))


@case
def trees(lab: Lab) -> None:
    def read(path: Path, classes: str | None = "own") -> FerDataset:
        return load(path, cache=False, classes=classes)

    good = lab.tree("cat", "dog")
    missing = lab.tree("happy", "sad")
    lab.refused(lambda: read(missing, None))
    lab.works(lambda: read(missing))
    lab.refused(lambda: read(good, "own,bird=dog"))
    lab.works(lambda: read(good, "own,cat=dog,dog=cat"))
    lab.refused(lambda: read(good, "cat=cow"))
    lab.works(lambda: read(good, "own,cat=cow"))
    one = lab.tree("cat")
    lab.refused(lambda: read(one))
    lab.pictures(one / "dog")
    lab.works(lambda: read(one))
    loose = lab.tree("cat", "dog")
    lab.pictures(loose)
    lab.refused(lambda: read(loose))
    for picture in loose.glob("*.png"):
        picture.rename(loose / "cat" / picture.name)
    lab.works(lambda: read(loose))
    deep = lab.tree("cat", "dog")
    lab.pictures(deep / "cat" / "more")
    lab.refused(lambda: read(deep))
    for picture in (deep / "cat" / "more").iterdir():
        picture.rename(deep / "cat" / picture.name)
    lab.works(lambda: read(deep))
    mixed = lab.tree("cat", "dog", folder="train")
    lab.pictures(mixed / "cat")
    lab.pictures(mixed / "dog")
    lab.refused(lambda: read(mixed))
    for name in ("cat", "dog"):
        for picture in (mixed / name).iterdir():
            picture.rename(mixed / "train" / name / f"other-{picture.name}")
        (mixed / name).rmdir()
    lab.works(lambda: read(mixed))
    two = lab.tree("cat", "dog", folder="one")
    lab.pictures(two / "two" / "cat")
    lab.pictures(two / "two" / "dog")
    lab.refused(lambda: read(two))
    lab.works(lambda: read(two / "one"))
    part = lab.tree("cat", "dog", folder="train")
    lab.pictures(part / "test" / "cat")
    lab.refused(lambda: read(part))
    lab.pictures(part / "test" / "dog", place=3)
    lab.works(lambda: read(part))
    lab.refused(lambda: read(lab.folder()))
    lab.works(lambda: read(good))
    seven = read(good).classes  # a table has FER2013's seven by number
    assert seven is not None
    numbered = table(lab)
    lab.refused(lambda: load(numbered, cache=False, classes="cat,dog"))
    lab.works(lambda: load(numbered, cache=False))
    lab.refused(lambda: load(good, cache=False, classes="own", votes=numbered))
    lab.works(lambda: read(good))


@case
def pictures_of_a_tree(lab: Lab) -> None:
    def read(path: Path) -> FerDataset:
        return load(path, cache=False, classes="fer2013")

    names = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    root = lab.tree(*names)
    spoilt = root / "happy" / "more.png"
    spoilt.write_bytes(b"no picture")
    lab.refused(lambda: read(root))
    spoilt.unlink()
    lab.works(lambda: read(root))
    spoilt.symlink_to(root / "nowhere.png")
    lab.refused(lambda: read(root))
    spoilt.unlink()
    lab.works(lambda: read(root))
    spoilt.symlink_to(spoilt)
    lab.refused(lambda: read(root))
    spoilt.unlink()
    lab.works(lambda: read(root))
    os.mkfifo(spoilt)
    lab.refused(lambda: read(root))
    spoilt.unlink()
    lab.works(lambda: read(root))
    lab.refused(lambda: load(lab.folder() / ("x" * 300), cache=False))
    lab.works(lambda: read(root))


@case
def zips(lab: Lab) -> None:
    def packed(*members: tuple[str, bytes], name: str = "set.zip") -> Path:
        path = lab.folder() / name
        with zipfile.ZipFile(path, "w") as archive:
            for member, content in members:
                archive.writestr(member, content)
        return path

    face = lab.face.read_bytes()
    good = [("cat/a.png", face), ("dog/b.png", face)]

    def read(path: Path) -> FerDataset:
        return load(path, cache=False, classes="own")

    right = packed(*good)
    outside = packed(*good, ("../x.png", face))
    lab.refused(lambda: read(outside))
    lab.works(lambda: read(right))
    twice = packed(*good, ("cat\\a.png", face))
    lab.refused(lambda: read(twice))
    lab.works(lambda: read(right))
    cut = lab.file("cut.zip", right.read_bytes()[:-30])
    lab.refused(lambda: read(cut))
    lab.works(lambda: read(right))
    huge = packed(*good, ("cat/huge.png", bytes(1 << 24)))
    lab.refused(lambda: read(huge))
    lab.works(lambda: read(right))
    content = bytearray(right.read_bytes())
    at = content.index(b"PK\1\2")
    content[at + 8] |= 1  # encrypted
    content[6] |= 1
    locked = lab.file("locked.zip", bytes(content))
    lab.refused(lambda: read(locked))
    lab.works(lambda: read(right))
    nested = packed(("inner.zip", right.read_bytes()))
    lab.refused(lambda: read(nested))
    with zipfile.ZipFile(nested) as archive:
        inner = archive.extract("inner.zip", lab.folder())
    lab.works(lambda: read(Path(inner)))


@case
def selections(lab: Lab) -> None:
    faces = lab.faces
    train = faces.select("train")
    lab.refused(lambda: holdout_mask(train, 1.5, 0))
    lab.works(lambda: holdout_mask(train, 0.05, 0))
    lab.refused(lambda: holdout_mask(train, 0.05, -1))
    lab.works(lambda: holdout_mask(train, 0.05, 0))
    lab.refused(lambda: holdout_mask(faces, 0.05, 0))
    lab.works(lambda: holdout_mask(faces.select("train"), 0.05, 0))
    few = CalibrationRecipe("few", count=32)
    lab.refused(lambda: select_calibration(faces, CalibrationRecipe("many", count=9999)))
    chosen = lab.works(lambda: select_calibration(faces, few))
    lab.refused(lambda: select_calibration(faces.select("public"), few))
    lab.works(lambda: select_calibration(train, few))
    lab.refused(lambda: chosen.images(train))
    lab.works(lambda: select_calibration(train, few).images(train))
    moved = replace(chosen, indices=tuple(reversed(chosen.indices)))
    lab.refused(lambda: moved.images(faces))
    lab.works(lambda: select_calibration(faces, few).images(faces))
    lab.refused(lambda: chosen.batches(faces, 0))
    lab.works(lambda: chosen.batches(faces, 1))
    lab.refused(lambda: load_calibration_recipe("none"))
    folder = lab.folder()
    (folder / "ids.txt").write_text("a\nb\n")
    recipe = folder / "own.toml"
    recipe.write_text("count = 32\n")
    lab.works(lambda: load_calibration_recipe(recipe))
    frozen = CalibrationRecipe("own", count=32, ids_file=str(folder / "ids.txt"))
    lab.refused(lambda: select_calibration(faces, frozen))
    lab.works(lambda: select_calibration(faces, CalibrationRecipe("own", count=32)))
    few_faces = faces.take(np.arange(8))
    lab.refused(lambda: apply_resplit(Resplit("80/10/10"), few_faces))
    lab.works(lambda: apply_resplit(Resplit("80/10/10"), faces))
    split = apply_resplit(Resplit("80/10/10"), faces)
    info = split.info()
    lab.refused(lambda: resplit_as_recorded(train, info, "a"))
    lab.works(lambda: resplit_as_recorded(faces, info, "a"))
    lab.refused(lambda: resplit_as_recorded(split, faces.info(), "a"))
    lab.works(lambda: resplit_as_recorded(faces, faces.info(), "a"))
    own = DatasetInfo(classes=("cat", "dog"))
    lab.refused(lambda: resplit_as_recorded(faces, own, "a"))
    tree = lab.tree("cat", "dog")
    lab.works(lambda: load(tree, cache=False, classes="cat,dog"))
    lab.refused(lambda: require_votes(faces, SimpleNamespace(target="votes")))  # type: ignore[arg-type]
    lab.works(lambda: require_votes(faces, SimpleNamespace(target="label")))  # type: ignore[arg-type]


@case
def a_source_that_changes(lab: Lab) -> None:
    path = table(lab)

    def changing() -> FerDataset:
        path.write_bytes(path.read_bytes() + b"\n")
        return load("synthetic:140", cache=False)

    lab.refused(lambda: cached_source(path, changing))
    lab.works(lambda: cached_source(path, lambda: load("synthetic:140", cache=False)))


# --- pictures ---


@case
def pictures(lab: Lab) -> None:
    gray = lab.gray
    good = lambda: face_from_image(lab.face)  # noqa: E731
    lab.refused(lambda: face_from_image(""))
    lab.works(good)
    lab.refused(lambda: face_from_image(gray / np.float32(255)))
    lab.works(lambda: face_from_image((gray / np.float32(255) * 255).astype(np.uint8)))
    lab.refused(lambda: face_from_image(np.stack([gray] * 3)))
    lab.works(lambda: face_from_image(np.moveaxis(np.stack([gray] * 3), 0, -1)))
    lab.refused(lambda: face_from_image(gray[None, :, :, None]))
    with Classifier(lab.bundle().path, precision="fp32") as classifier:
        lab.works(lambda: classifier.predict_batch(gray[None, None]))
    text = lab.file("face.txt", "no picture")
    lab.refused(lambda: face_from_image(text))
    lab.works(good)
    with text.open() as file:
        lab.refused(lambda: face_from_image(file))  # type: ignore[arg-type]
    with lab.face.open("rb") as file:
        lab.works(lambda: face_from_image(file))
    for mode in ("I", "F"):
        lab.refused(lambda mode=mode: face_from_image(Image.new(mode, (48, 48))))
        lab.works(lambda mode=mode: face_from_image(Image.new(mode, (48, 48)).convert("L")))
    dark = Image.fromarray(np.full((48, 48), 255, np.uint16))
    lab.refused(lambda: face_from_image(dark))
    lab.works(lambda: face_from_image(np.asarray(dark).astype(np.uint8)))
    heic = lab.file("face.heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    lab.refused(lambda: face_from_image(heic))
    lab.works(good)


@case
def boxes(lab: Lab) -> None:
    right = '{"image": "a/x.png", "box": [0, 0, 9, 9]}\n'
    empty = lab.file("b.jsonl", right.replace("9, 9", "0, 9"))
    lab.refused(lambda: read_boxes(empty))
    lab.works(lambda: read_boxes(lab.file("b.jsonl", right)))
    lab.refused(lambda: read_boxes(lab.folder() / "none.jsonl"))
    two = read_boxes(lab.file("b.jsonl", right + right.replace("a/", "b/")))
    lab.works(lambda: two.of("a/x.png"))
    lab.refused(lambda: two.of("c/x.png"))
    lab.works(lambda: two.of("b/x.png"))


# --- graphs ---


@case
def graphs(lab: Lab) -> None:
    good = lab.onnx
    lab.refused(lambda: read_graph(lab.file("bad.onnx", "no graph")))
    lab.works(lambda: read_graph(good))
    out = lab.folder() / "half.onnx"
    fp16_from_onnx(good, out)
    lab.refused(lambda: fp16_from_onnx(out, lab.folder() / "x.onnx"))
    lab.works(lambda: fp16_from_onnx(good, lab.folder() / "x.onnx"))
    large = onnx.load(good)
    weights = next(each for each in large.graph.initializer if each.name == "head")
    weights.CopyFrom(
        helper.make_tensor("head", TensorProto.FLOAT, list(weights.dims), [1e6] * 7 * 24)
    )
    lab.refused(lambda: half_precision(large))
    lab.works(lambda: read_graph(good))
    broken = lab.file("broken.onnx", b"\x08\x08")
    lab.refused(OnnxRuntimeBackend(broken).load)
    lab.works(OnnxRuntimeBackend(good).load)
    lab.refused(OnnxRuntimeBackend(lab.folder() / "none.onnx").load)
    lab.works(OnnxRuntimeBackend(good).load)


@case
def files_of_other_kinds(lab: Lab) -> None:
    good = table(lab, rows=3)
    packed = lab.file("fer2013.csv.gz", gzip.compress(good.read_bytes()))
    damaged = lab.file("set.npz", b"PK\3\4 no data set")
    for path in (packed, damaged):
        lab.refused(lambda path=path: load(path, cache=False))
        lab.works(lambda: load(good, cache=False))
    nothing = np.zeros((0, 48, 48), np.uint8)
    lab.refused(
        lambda: dataset_from_rows(nothing, nothing[:, 0, 0], nothing[:, 0, 0], [], source="x")
    )
    lab.works(lambda: load("synthetic:140", cache=False))
    recorded = DatasetInfo(classes=("cat", "dog"))
    lab.refused(lambda: classes_as_recorded(recorded, "a,b", "the run"))
    lab.works(lambda: classes_as_recorded(recorded, None, "the run"))


VOTES_HEADER = (
    "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
)


@case
def votes_of_other_images(lab: Lab) -> None:
    faces = table(lab, rows=40)

    def votes(rows: int, usage: str = "Training") -> Path:
        lines = [f"{usage},fer{row:07}.png,10,0,0,0,0,0,0,0,0,0" for row in range(rows)]
        return lab.file("fer2013new.csv", "\n".join([VOTES_HEADER, *lines]) + "\n")

    right = votes(40)
    for wrong in (votes(1), votes(40, "PublicTest")):
        lab.refused(lambda wrong=wrong: load(faces, cache=False, votes=wrong))
        lab.works(lambda: load(faces, cache=False, votes=right))
