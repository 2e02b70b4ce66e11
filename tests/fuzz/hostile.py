"""The kinds of hostile input: how one is made, and what of this package reads it.

A kind makes its valid seed once (:meth:`Kind.prepare`), mutates it, and gives the mutant to what a
user would give it to. Right is: it is read, or a :class:`FerEdgeError` says in one line why not, or
the command ends with one of its exit codes. Where the seed has answers, a mutant that is read must
give the same ones, or carry digests of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from fixtures_bundle import TinyNet, golden_bytes
from fixtures_classes import THREE, write_tree
from mutations import bytes_of, dumped, json_of, text_of, value, zip_of
from PIL import Image

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.packing import pack_bundle
from fer_edge.classifier import Classifier
from fer_edge.cli import COMMANDS, main
from fer_edge.data import load
from fer_edge.errors import FerEdgeError
from fer_edge.measure.environment import capture
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.pretrained import pretrained_path

__all__ = ["KINDS", "Kind", "WrongError", "fault_of"]

EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 130}
_DIGEST = "manifest_sha256"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class WrongError(AssertionError):
    """An input was handled in a wrong way, without an exception."""


def fault_of(error: FerEdgeError) -> str:
    """Return what is wrong with an error's text, or ""."""
    text = str(error)
    if not text.strip():
        return "an error without a text"
    if "\n" in text or "\r" in text:
        return f"an error of several lines: {text[:200]!r}"
    if _CONTROL.search(text):
        return f"control characters in an error: {text[:200]!r}"
    if len(text) > 3000:
        return f"an error of {len(text):,} characters: {text[:100]!r}"
    return ""


class Kind(ABC):
    """One kind of input. ``before`` is what the issue's attack found at commit cff834c."""

    name: ClassVar[str]
    before: ClassVar[str] = "-"
    reads: ClassVar[bool] = True
    """Whether some mutants are valid; every changed byte of a packed bundle is an error."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.prepare()

    def prepare(self) -> None:  # noqa: B027 (a kind may need no seed)
        """Make the valid seed in ``self.folder``."""

    @abstractmethod
    def run(self, rng: random.Random) -> bool:
        """Make one input and give it to its reader; return whether it was read.

        :class:`FerEdgeError` is a refusal; every other exception is a failure.
        """

    def file(self, name: str, content: bytes) -> Path:
        """Write ``content`` to a file of this name in the folder of the mutants."""
        path = self.folder / "mutant" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path


def command(*words: str) -> tuple[int, str, str]:
    """Run a ``fer-edge`` command here; :class:`WrongError` for a wrong exit code or output."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    for text in (out.getvalue(), err.getvalue()):
        if "Traceback" in text:
            raise WrongError(f"a traceback: {text[-300:]!r}")
        if _CONTROL.search(text.replace("\t", " ")):
            raise WrongError(f"control characters in the output of {words[:2]}: {text[-200:]!r}")
    if code not in EXIT_CODES:
        raise WrongError(f"exit code {code}")
    if code not in {0, 3, 130} and not err.getvalue().strip():
        raise WrongError(f"exit code {code} without a word")
    return code, out.getvalue(), err.getvalue()


class Pictures(Kind):
    """Image files of every common format, with damaged bytes and damaged EXIF."""

    name = "pictures: bytes"
    before = "1,177 of 10,780"

    def prepare(self) -> None:
        """One small face per format."""
        face = Image.fromarray(load("synthetic:70").images[0])
        self.seeds: list[tuple[str, bytes]] = []
        exif = Image.Exif()
        exif[0x0112], exif[0x010E], exif[0x9003] = 6, "a face", "2024:01:01 00:00:00"
        for suffix, mode, options in (
            ("jpg", "RGB", {"exif": exif}),
            ("jpg", "L", {}),
            ("png", "RGBA", {"exif": exif}),
            ("png", "P", {}),
            ("png", "I;16", {}),
            ("tiff", "RGB", {"exif": exif}),
            ("tiff", "L", {"compression": "tiff_lzw"}),
            ("webp", "RGB", {"exif": exif}),
            ("gif", "P", {}),
            ("bmp", "RGB", {}),
            ("ppm", "L", {}),
            ("jp2", "L", {}),
            ("dds", "RGBA", {}),
            ("avif", "RGB", {}),
        ):
            buffer = io.BytesIO()
            picture = face if mode == "I;16" else face.convert(mode)
            if mode == "I;16":
                picture = Image.fromarray(np.asarray(face).astype(np.uint16) * 257)
            kind = {"jpg": "JPEG", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
            try:
                picture.save(buffer, kind, **options)
            except (KeyError, OSError):
                continue  # This Pillow has no encoder for it.
            self.seeds.append((suffix, buffer.getvalue()))

    def run(self, rng: random.Random) -> bool:
        """Read a mutant as a face."""
        from fer_edge.faces import face_from_image

        suffix, content = rng.choice(self.seeds)
        path = self.file(f"face.{suffix}", bytes_of(content, rng))
        face = face_from_image(path)
        if face.dtype != np.uint8 or face.shape[-2:] != (48, 48):
            raise WrongError(f"a face {face.dtype}{face.shape}")
        return True


class Arrays(Kind):
    """Arrays and Pillow images of every mode, type and shape."""

    name = "pictures: arrays and modes"

    def run(self, rng: random.Random) -> bool:
        """Read an array or an image as a face."""
        from fer_edge.faces import face_from_image

        random_ = np.random.default_rng(rng.randrange(2**32))
        if rng.randrange(2):
            modes = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA")
            mode = rng.choice((*modes, "PA", "RGBa", "La", "I;16", "I;16B", "RGBX"))
            size = (rng.choice((0, 1, 5, 48, 300)), rng.choice((1, 5, 48, 300)))
            image = Image.new(mode, size)
            if rng.randrange(8) == 0:
                image.close()
            face_from_image(image)
            return True
        shape = tuple(rng.choice((0, 1, 2, 3, 4, 48, 49)) for _ in range(rng.randrange(5)))
        types = ("u1", "i1", "u2", "i4", "f4", "f8", "f2", "?", "c8", "O", "U3", "M8[s]", ">u2")
        array = random_.integers(0, 255, shape).astype("f8")
        if rng.randrange(4) == 0 and array.size:
            array.flat[0] = rng.choice((np.nan, np.inf, -np.inf, 1e300))
        with np.errstate(all="ignore"):
            face_from_image(array.astype(rng.choice(types)))
        return True


class Manifests(Kind):
    """Manifests with other fields, whose digests are right."""

    name = "bundle: manifest fields, digests recomputed"
    before = "58 of 1,503"

    def prepare(self) -> None:
        """A copy of the bundle in the package, whose manifest has every field."""
        self.bundle = self.folder / "seed"
        shutil.copytree(pretrained_path("votes"), self.bundle)
        self.fields = json.loads((self.bundle / "manifest.json").read_text("utf-8"))

    def run(self, rng: random.Random) -> bool:
        """Open, inspect and predict with it."""
        fields = json_of({k: v for k, v in self.fields.items() if k != _DIGEST}, rng)
        fields = fields if isinstance(fields, dict) else {"schema": fields}
        digest = hashlib.sha256(_as_written(fields)).hexdigest()
        (self.bundle / "manifest.json").write_bytes(_as_written({**fields, _DIGEST: digest}))
        for words in (("inspect",), ("inspect", "--card"), ("inspect", "--format", "json")):
            code, _, _ = command(words[0], str(self.bundle), *words[1:])
        with Classifier(self.bundle) as classify:
            classify.predict(np.zeros((48, 48), np.uint8))
        return code == 0


class Golden(Kind):
    """Self-tests (golden.npz) with damaged bytes or other arrays, whose digests are right."""

    name = "bundle: golden.npz, digests recomputed"
    before = "211 of 281"

    def prepare(self) -> None:
        """The golden file of a tiny network."""
        self.net = TinyNet()
        self.golden = golden_bytes(self.net)
        self.bundle = self.folder / "forged"

    def run(self, rng: random.Random) -> bool:
        """Open and predict with it."""
        content = bytes_of(self.golden, rng) if rng.randrange(3) else _odd_npz(rng)
        with BundleWriter(self.bundle) as writer:
            writer.add_bytes(
                self.net.onnx_bytes(), "model.fp32.onnx", format="onnx", precision="fp32"
            )
            writer.add_bytes(content, "golden.npz", format="npz")
            writer.set(name="forged")
        command("inspect", str(self.bundle))
        with Classifier(self.bundle) as classify:
            classify.predict(np.zeros((48, 48), np.uint8))
        return True


class Packed(Kind):
    """Packed bundles (.fer) with damaged bytes."""

    name = "bundle: .fer"
    reads = False

    def prepare(self) -> None:
        """A packed bundle."""
        bundle = Bundle.open(_bundle(self.folder / "seed"))
        pack_bundle(bundle, self.folder / "seed.fer")
        self.seed = (self.folder / "seed.fer").read_bytes()

    def run(self, rng: random.Random) -> bool:
        """Unpack it."""
        from fer_edge.bundle.packing import unpack_bundle

        mutant = bytes_of(self.seed, rng)
        path = self.file("x.fer", mutant)
        unpack_bundle(path, self.folder / "out", replace=True)
        if mutant != self.seed:
            raise WrongError("a changed file was unpacked")
        return True


class Graphs(Kind):
    """ONNX files with damaged bytes, given to build."""

    name = "onnx: bytes"

    def prepare(self) -> None:
        """The graph of a tiny network."""
        self.seed = TinyNet().onnx_bytes(uint8=True)

    def run(self, rng: random.Random) -> bool:
        """Build FP32 from it."""
        path = self.file("model.onnx", bytes_of(self.seed, rng))
        out = self.folder / "built"
        code, _, _ = command(
            *("build", str(path), "-o", str(out), "--precision", "fp32", "--no-verify", "-q")
        )
        return code == 0


class Zips(Kind):
    """Data sets as zips with odd names, members, methods and damage."""

    name = "data: zip"

    def prepare(self) -> None:
        """A tree of three classes, packed."""
        root = write_tree(self.folder / "tree", THREE, count=70)
        self.files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*.png"))[:40]
        }

    def run(self, rng: random.Random) -> bool:
        """Load it."""
        path = self.file("data.zip", zip_of(self.files, rng))
        _loaded(path, "own")
        return True


class Trees(Kind):
    """Trees of class folders with foreign files, links, pipes and odd names."""

    name = "data: folders"

    def prepare(self) -> None:
        """Files of a tree of three classes."""
        root = write_tree(self.folder / "seed", THREE, count=70)
        self.files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*.png"))[:30]
        }

    def run(self, rng: random.Random) -> bool:
        """Load it."""
        root = self.folder / "tree"
        shutil.rmtree(root, ignore_errors=True)
        for name, content in self.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        for _ in range(rng.choice((1, 2, 4))):
            path = root / rng.choice(list(self.files))
            with contextlib.suppress(OSError):  # A folder was renamed before.
                rng.choice(_DISTURB)(path, rng)
        _loaded(root, "own")
        return True


class Tables(Kind):
    """CSVs of FER2013 with odd cells, separators, encodings and damage."""

    name = "data: CSV"

    def prepare(self) -> None:
        """A CSV of drawn faces."""
        faces = load("synthetic:70")
        usage = ("Training", "PublicTest", "PrivateTest")
        rows = ["emotion,pixels,Usage"]
        for image, label, split in zip(faces.images, faces.labels, faces.split, strict=True):
            pixels = " ".join(map(str, image.ravel().tolist()))
            rows.append(f"{label},{pixels},{usage[int(split)]}")
        self.text = "\n".join(rows) + "\n"

    def run(self, rng: random.Random) -> bool:
        """Load it."""
        name = rng.choice(("fer2013.csv", "icml_face_data.csv", "train.csv", "data.csv", "data"))
        _loaded(self.file(name, text_of(self.text, rng)))
        return True


class NpzFiles(Kind):
    """npz files of damaged bytes, other arrays, and headers that promise too much."""

    name = "data: npz"

    def prepare(self) -> None:
        """The npz of drawn faces."""
        from fer_edge.data.readers_npz import npz_from_dataset

        npz_from_dataset(load("synthetic:70"), self.folder / "seed.npz")
        self.seed = (self.folder / "seed.npz").read_bytes()

    def run(self, rng: random.Random) -> bool:
        """Load it."""
        content = bytes_of(self.seed, rng) if rng.randrange(3) else _odd_npz(rng)
        _loaded(self.file("faces.npz", content))
        return True


class Votes(Kind):
    """Files of votes with odd cells."""

    name = "data: votes"

    def prepare(self) -> None:
        """Drawn faces and their votes."""
        from fixtures_votes import write_voted

        write_voted(load("synthetic:70"), self.folder)
        self.text = (self.folder / "fer2013new.csv").read_text()

    def run(self, rng: random.Random) -> bool:
        """Load the faces with them."""
        path = self.file("fer2013new.csv", text_of(self.text, rng))
        load(str(self.folder / "faces.npz"), cache=False, votes=path)
        return True


class Records(Kind):
    """JSON files that runs and benches write, with other fields."""

    name = "records: run.json, cv.json, bench"

    def prepare(self) -> None:
        """A finished run of one epoch, and a bench of the null backend."""
        self.root = self.folder / "seed"
        words = ("train", "--recipe", "quick", "--epochs", "1", "--data", "synthetic:70")
        small = ("--set", "model.options.widths=[16]", "--set", "model.options.blocks=[1]")
        code, _, err = command(*words, *small, "--name", "mine", "--runs", str(self.root), "-q")
        if code:
            raise WrongError(err)
        self.run_json = json.loads((self.root / "mine" / "run.json").read_text("utf-8"))
        row = BenchRow("null", "", "ok", bundle="mine", ns=((1, 2, 3),), n=3, p50_ms=0.1)
        bench = BenchResult(
            rows=(row,),
            environment=capture(1),
            protocol={"warmup_s": 1.0},
            dataset={
                "source": "a",
                "sha256": "0" * 64,
                "split": "public",
                "n": 3,
                "synthetic": True,
            },
            reference="pytorch fp32",
            created="2026-01-01T00:00:00+00:00",
            fer_edge="0.1.0",
        )
        self.bench = json.loads(bench.to_json())

    def run(self, rng: random.Random) -> bool:
        """Compare the bench with itself, or name the run in a command."""
        name = rng.choice(("bench.json", "run.json", "cv.json"))
        content = dumped(json_of(self.bench if name == "bench.json" else self.run_json, rng))
        content = bytes_of(content, rng) if rng.randrange(5) == 0 else content
        if name == "bench.json":
            path = str(self.file(name, content))
            BenchResult.load(path)
            return command("bench", "compare", path, path)[0] == 0
        root = self.folder / "runs"
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self.root, root)
        (root / "mine" / name).write_bytes(content)
        words = rng.choice(
            (
                ("plot", "history", "mine", "-o", str(self.folder / "plot.png")),
                ("train", "--resume", "mine", "--data", "synthetic:70"),
                ("evaluate", "mine", "--data", "synthetic:70"),
                ("soup", "mine", "mine", "--data", "synthetic:70", "--name", "mean"),
            )
        )
        return command(*words, "--runs", str(root))[0] == 0


class WeightFiles(Kind):
    """A run's weights (safetensors) with damaged bytes: the run recorded their digest."""

    name = "a run's weights: bytes"
    before = "19 of 90 were built from"
    reads = False

    def prepare(self) -> None:
        """A run with the weights of a small network."""
        from fer_edge.models import build_model
        from fer_edge.models.spec import ModelSpec
        from fer_edge.models.weights import weights_bytes
        from fer_edge.preprocessing import Preprocessing
        from fer_edge.provenance import DatasetInfo
        from fer_edge.runs.folder import create_run
        from fer_edge.runs.recipe import Recipe

        spec = ModelSpec("compact", options={"widths": [16], "blocks": [1]})
        self.seed = weights_bytes(build_model(spec), spec, Preprocessing())
        run = create_run(self.folder / "runs", "mine", Recipe(), DatasetInfo(), "synthetic:70")
        run.write_weights({run.model.name: self.seed})
        self.model = run.model

    def run(self, rng: random.Random) -> bool:
        """Load a model from them."""
        from fer_edge.models.weights import model_from_weights

        mutant = bytes_of(self.seed, rng)
        self.model.write_bytes(mutant)
        model_from_weights(self.model)
        if mutant != self.seed:
            raise WrongError("changed weights were loaded")
        return True


class Recipes(Kind):
    """Recipes (TOML) and ``--set`` with odd values."""

    name = "recipes and --set"

    def run(self, rng: random.Random) -> bool:
        """Read them."""
        from fer_edge.runs.recipe import Recipe, load_recipe, recipe_to_toml, with_overrides

        if rng.randrange(2):
            keys = ("optim.lr", "epochs", "model.options.widths", "augment", "x", "", "loss.target")
            text = f"{rng.choice(keys)}={str(value(rng))[:3000]}"
            made = with_overrides(Recipe(), [text])
        else:
            seed = recipe_to_toml(Recipe())
            mutant = bytes_of(seed.encode(), rng)
            if rng.randrange(2):
                lines = seed.splitlines()
                place = rng.randrange(len(lines))
                key = lines[place].partition("=")[0]
                lines[place] = f"{key}= {str(value(rng))[:3000]}"
                mutant = "\n".join(lines).encode("utf-8", "replace")
            made = load_recipe(self.file("own.toml", mutant))
        recipe_to_toml(made)
        return True


class CommandLines(Kind):
    """Commands with odd words and option values."""

    name = "command lines"

    def prepare(self) -> None:
        """The options of every command."""
        from importlib import import_module

        self.options: dict[str, list[str]] = {}
        for name, (module, _) in COMMANDS.items():
            made = import_module(module).command
            self.options[name] = [o for p in made.params for o in p.opts if o.startswith("-")]

    def run(self, rng: random.Random) -> bool:
        """Run one; training and demos are kept out by data that does not exist."""
        name = rng.choice([name for name in COMMANDS if name not in {"demo", "doctor", "serve"}])
        words = [name]
        for _ in range(rng.randrange(4)):
            if rng.randrange(2) and self.options[name]:
                words.append(rng.choice(self.options[name]))
            word = rng.choice(
                (str(value(rng))[:300], "~nouser/x", "/dev/null", "/proc/self/mem", "", "1e9", "-1")
            )
            words.append(word.replace("\0", "") or "''")
        before = dict(os.environ)
        os.environ["FER_EDGE_DATA"] = str(self.folder / "none.zip")
        os.environ["FER_EDGE_RUNS"] = str(self.folder / "runs")
        place = Path.cwd()
        try:
            os.chdir(self.folder)
            code, _, _ = command(*words)
        finally:
            os.chdir(place)
            os.environ.clear()
            os.environ.update(before)
        return code == 0


def _as_written(fields: dict[str, Any]) -> bytes:
    text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "surrogatepass")


def _bundle(path: Path) -> Path:
    net = TinyNet()
    with BundleWriter(path) as writer:
        writer.add_bytes(net.onnx_bytes(), "model.fp32.onnx", format="onnx", precision="fp32")
        writer.add_bytes(golden_bytes(net), "golden.npz", format="npz")
        writer.set(name="tiny")
    return path


def _loaded(path: Path, classes: str | None = None) -> Any:
    data = load(str(path), cache=False, classes=classes)
    if data.images.dtype != np.uint8 or len(data.images) != len(data.labels):
        raise WrongError("a data set that does not fit together")
    if len(data) and int(data.labels.max()) >= len(data.class_names):
        raise WrongError("a label without a class")
    return data


def _odd_npz(rng: random.Random) -> bytes:
    """Return an npz of other arrays, or one whose header promises more than there is."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in rng.sample(("images", "logits", "labels", "split", "ids", "x"), 3):
            shape = rng.choice(
                ((0,), (16, 1, 48, 48), (10**9, 48, 48), (2**62, 2), (), (16, 7), (-1, 3))
            )
            kind = rng.choice(("|u1", "<f4", "|O", "<U5", ">i8", "|V9999999", "<f4, 1", "|b1"))
            order = rng.choice(("False", "True", "1/0"))
            head = f"{{'descr': {kind!r}, 'fortran_order': {order}, 'shape': {shape}, }}"
            head += " " * rng.choice((0, 60, 100_000)) + "\n"
            body = bytes(rng.choice((0, 100, 16 * 2304, 5_000_000)))
            raw = b"\x93NUMPY\x02\x00" + len(head).to_bytes(4, "little") + head.encode() + body
            archive.writestr(f"{name}.npy", raw)
    return buffer.getvalue()


def _junk(path: Path, rng: random.Random) -> None:
    (path.parent / "Thumbs.db").write_bytes(b"junk")
    (path.parent / "._1.png").write_bytes(b"junk")
    (path.parent / "empty.png").write_bytes(b"")
    (path.parent / "notes.txt").write_text("text")
    (path.parent / f"train\\glad\\{rng.randrange(99)}.png").write_bytes(b"junk")


def _link(path: Path, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(rng.choice((path.parent / "nowhere.png", path, Path("/dev/zero"))))


def _pipe(path: Path, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _loop(path: Path, rng: random.Random) -> None:
    (path.parent / "loop").symlink_to(path.parents[1])


def _damage(path: Path, rng: random.Random) -> None:
    if path.is_file() and not path.is_symlink():
        path.write_bytes(bytes_of(path.read_bytes(), rng))


def _other_folder(path: Path, rng: random.Random) -> None:
    names = ("suprise", "Angry ", "x" * 200, "\x1b[2J", "train_set")
    path.parent.rename(path.parent.with_name(rng.choice(names)))


def _folder_for_file(path: Path, rng: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.mkdir(exist_ok=True)


def _no_utf8(path: Path, rng: random.Random) -> None:
    path.rename(os.fsdecode(bytes(path.parent) + b"/\xff\xfe.png"))


_DISTURB = (_junk, _link, _pipe, _loop, _damage, _other_folder, _folder_for_file, _no_utf8)


def _kinds() -> Iterator[type[Kind]]:
    yield from (Pictures, Arrays, Zips, Trees, Tables, NpzFiles, Votes, Manifests, Golden, Packed)
    yield from (WeightFiles, Records, Graphs, Recipes, CommandLines)


KINDS: dict[str, type[Kind]] = {kind.name: kind for kind in _kinds()}
