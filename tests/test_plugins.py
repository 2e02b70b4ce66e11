"""Plug-ins: what other packages bring is used by its name, and can break nothing else."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_detector import photo_of
from fixtures_plugins import NETWORK, Install, install
from PIL import Image

from fer_edge import Classifier, FaceAnalyzer
from fer_edge.backends import backend_class
from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.data import load
from fer_edge.errors import RecipeError, UnavailableError, UsageError
from fer_edge.faces import detector
from fer_edge.measure.bench import candidates
from fer_edge.models import ModelSpec, build_model, model_entry, package_of
from fer_edge.plugins import plug_in, plug_ins
from fer_edge.runs.recipe import load_recipe

__all__ = ["install"]

MARK = "\nimport builtins\nbuiltins.imported_by_test = True\n"
"""Shows whether a module was imported."""

BACKEND = """
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend


class Ours(OnnxRuntimeBackend):
    name = "ours"
    placement = "onnxruntime"


class Unnamed(OnnxRuntimeBackend):
    pass
"""

DETECTOR = """
from fer_edge import DetectorRow
from fixtures_detector import FakeDetector as Finder

ROW = DetectorRow(__name__ + ":Finder", ("numpy",), "pip install numpy")
ILL = DetectorRow(__name__ + ":Missing", ("numpy",), "pip install numpy")
LACKS = DetectorRow(__name__ + ":Finder", ("no_such_package",), "pip install no-such-package")
"""


def network(install: Install, name: str = "own-net", package: str = "own-network") -> Path:
    module = package.replace("-", "_")
    code = NETWORK.format(module=module) + MARK
    return install(package, code, models=f"{name} = {module}:ENTRY")


def test_a_network_is_built_by_its_name(install: Install) -> None:
    network(install)
    assert model_entry("own-net").source == "a test"
    assert package_of("own-net") == "own-network"
    assert package_of("compact") == ""
    model = build_model(ModelSpec("own-net", classes=3))
    assert [tuple(p.shape) for p in model.parameters()] == [(3, 2304), (3,)]


def test_nothing_is_imported_before_it_is_asked_for(install: Install) -> None:
    """Finding all names imports none; a name of fer-edge does not even look for plug-ins."""
    network(install)
    code = (
        "import builtins, sys\n"
        "from importlib import metadata\n"
        "from fer_edge.backends import backend_class\n"
        "from fer_edge.models import model_entry\n"
        "from fer_edge.plugins import KINDS, plug_in_names\n"
        "from fer_edge.runs.recipe import load_recipe\n"
        "search, metadata.distributions = metadata.distributions, None\n"
        "model_entry('compact'), backend_class('onnxruntime'), load_recipe('quick')\n"
        "metadata.distributions = search\n"
        "assert 'own-net' in [name for kind in KINDS for name in plug_in_names(kind)]\n"
        "assert not hasattr(builtins, 'imported_by_test')\n"
        "model_entry('own-net')\n"
        "assert builtins.imported_by_test\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_tables_does_not_import_the_search() -> None:
    code = (
        "import sys\n"
        "import fer_edge.models, fer_edge.backends, fer_edge.runs.recipe, fer_edge.plugins\n"
        "assert 'importlib.metadata' not in sys.modules, 'slow'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_weights_name_the_package_that_is_missing(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fer_edge.models.header import read_header
    from fer_edge.models.weights import model_from_weights, save_weights
    from fer_edge.preprocessing import Preprocessing

    network(install)
    spec = ModelSpec("own-net", package=package_of("own-net"))
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    path = tmp_path / "model.safetensors"
    save_weights(path, build_model(spec), spec, Preprocessing())
    assert read_header(path).spec.package == "own-network"
    assert model_from_weights(path)[1].spec == spec
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path / "site")])
    with pytest.raises(UnavailableError, match="'own-net' is a plug-in of the package own-network"):
        model_from_weights(path)


@pytest.mark.parametrize("folds", [False, True])
def test_a_run_names_the_package_that_is_missing(
    install: Install,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    folds: bool,
) -> None:
    from fer_edge.training.folds import create_cross_validation
    from fer_edge.training.start import start_run

    network(install)
    faces, recipe = load("synthetic:140"), load_recipe("quick", ["model.name=own-net"])
    monkeypatch.chdir(tmp_path)
    made = (Path("runs"), "a", recipe, faces, "synthetic:140")
    if folds:
        create_cross_validation(*made, count=2)
    else:
        start_run(*made)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path / "site")])
    with pytest.raises(SystemExit) as ended:
        main(["train", "--resume", "a"])
    said = capsys.readouterr().err
    assert ended.value.code == 5
    assert "the model 'own-net' is a plug-in of the package own-network, which is not" in said
    assert "fix:   pip install own-network" in said


def test_networks_of_fer_edge_record_no_package() -> None:
    """Their files keep the bytes, and the digests, that they had before there were plug-ins."""
    assert list(ModelSpec("compact").to_dict()) == [
        "name",
        "options",
        "size",
        "channels",
        "classes",
    ]


def test_a_broken_plug_in_gives_one_line_and_stops_nothing_else(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    network(install)
    install("ill-network", "import nothing_of_this_name", models="ill-net = ill_network:ENTRY")
    with pytest.raises(
        UnavailableError, match=r"'ill-net' of the package ill-network 1\.0"
    ) as found:
        model_entry("ill-net")
    assert "No module named 'nothing_of_this_name'" in str(found.value)
    assert found.value.fix == "pip install --upgrade ill-network, or pip uninstall ill-network"
    main(["models", "--format", "json"])
    shown = capsys.readouterr()
    packages = {row["name"]: row["package"] for row in json.loads(shown.out)}
    assert packages["own-net"] == "own-network 1.0"
    assert packages["compact"] == "fer-edge"
    assert "ill-net" not in packages
    assert shown.err.startswith("note: the model 'ill-net' of the package ill-network 1.0")
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('stop')", "SystemExit: stop"),
        ("ENTRY = 3", "thing:ENTRY is of type int"),
        ("", "has no attribute 'ENTRY'"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_what_a_package_may_do_wrong(install: Install, code: str, reason: str) -> None:
    install("thing", code, models="ill-net = thing:ENTRY")
    with pytest.raises(UnavailableError, match=reason):
        model_entry("ill-net")


def test_a_network_that_cannot_be_built_names_its_package(install: Install) -> None:
    code = NETWORK.format(module="thing").replace("return nn", "return nothing")
    install("thing", code, models="ill-net = thing:ENTRY")
    with pytest.raises(UnavailableError, match=r"package thing 1\.0 does not work: NameError"):
        build_model(ModelSpec("ill-net"))


def test_a_name_that_exists_is_refused_by_both_packages(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    network(install, "twice", "first")
    network(install, "twice", "second")
    network(install, "compact", "third")
    with pytest.raises(UsageError, match="two packages have a model 'twice': first and second"):
        model_entry("twice")
    assert plug_in("model", "twice", "Second") == plug_ins("model")[-1]
    assert model_entry("compact").source == "fer-edge"
    main(["models", "--format", "csv"])
    shown = capsys.readouterr()
    assert "twice" not in shown.out
    assert shown.err.splitlines() == [
        "note: the model 'compact' of third is not used: fer-edge has this name",
        "note: the model 'twice' cannot be used: first and second have this name",
    ]


def test_an_unknown_name_suggests_one_of_a_plug_in(install: Install) -> None:
    network(install)
    with pytest.raises(UsageError) as found:
        model_entry("own-nett")
    assert found.value.fix == "did you mean 'own-net'?"


def test_a_package_that_is_half_removed_is_passed_over(install: Install, tmp_path: Path) -> None:
    network(install)
    (tmp_path / "site" / "own_network-1.0.dist-info" / "METADATA").unlink()
    network(install, "other-net", "other")
    assert model_entry("other-net")
    (tmp_path / "site" / "other-1.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[")
    with pytest.raises(UsageError, match="unknown model 'other-net'"):
        model_entry("other-net")


def test_a_backend_is_used_by_its_name(install: Install, tiny_bundle: Bundle) -> None:
    install("runtime", BACKEND, backends="ours = runtime:Ours")
    images = load("synthetic:70").images[:8]
    with Classifier(tiny_bundle.path, backend="ours") as ours, Classifier(tiny_bundle.path) as own:
        assert ours.backend == "ours"
        answers = [p.label for p in ours.predict_batch(images)]
        assert answers == [p.label for p in own.predict_batch(images)]
        again = pickle.loads(pickle.dumps(ours))  # noqa: S301
    assert again.backend == "ours"
    again.close()
    rows = [(c.row.backend, c.row.precision) for c in candidates([tiny_bundle], ["ours"])]
    assert rows == [("null", ""), ("ours", "fp32"), ("ours", "fp16"), ("ours", "int8")]
    assert "ours" not in {c.row.backend for c in candidates([tiny_bundle])}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ours = runtime:Unnamed", "has the name 'onnxruntime'"),
        ("ours = runtime:OnnxRuntimeBackend.__name__", "is of type str"),
        ("ours = builtins:int", "is no subclass of fer_edge.Backend"),
    ],
)
def test_what_is_no_backend_is_refused(install: Install, line: str, reason: str) -> None:
    install("runtime", BACKEND, backends=line)
    with pytest.raises(UnavailableError, match=reason):
        backend_class("ours")


def test_a_detector_is_used_by_its_name(install: Install, tiny_bundle: Bundle) -> None:
    install("finder", DETECTOR, detectors="ours = finder:ROW\nill = finder:ILL\nno = finder:LACKS")
    photo = photo_of(load("synthetic:70").images[:2], [(20, 30), (150, 60)])
    with FaceAnalyzer(tiny_bundle.path, detector="ours") as analyze:
        assert len(analyze(Image.fromarray(photo)).faces) == 2
    with pytest.raises(UnavailableError, match=r"'ill' of the package finder 1\.0 does not work"):
        detector("ill")
    with pytest.raises(UnavailableError, match="needs no_such_package") as found:
        detector("no")
    assert found.value.fix == "pip install no-such-package"


FAULTY_DETECTOR = """
import numpy as np
from fer_edge import DetectorRow, Detections


class Finder:
    def __init__(self, **options):
        self.name, self.smallest = options["name"], 0

    def detect(self, picture):
        if self.name == "raises":
            return {}["face"]
        if self.name == "shapes":
            return Detections(np.zeros((1, 5), "f4"), np.zeros(1, "f4"), np.zeros((1, 4, 2), "f4"))
        if self.name == "nan":
            nan = np.full((1, 4), np.nan, "f4")
            return Detections(nan, np.zeros(1, "f4"), np.zeros((1, 4, 2), "f4"))
        return None


ROW = DetectorRow(__name__ + ":Finder", (), "pip install nothing")
BARE = DetectorRow("builtins:dict", (), "pip install nothing")
"""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises", "KeyError: 'face'"),
        ("shapes", "detect() returned boxes float32[1, 5], not float32[1, 4]"),
        ("nan", "detect() returned boxes that are not finite"),
        ("none", "detect() returned NoneType, not Detections"),
        ("bare", "dict has no method detect"),
    ],
)
def test_a_detector_that_fails_is_one_line_in_every_command(
    install: Install,
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    reason: str,
) -> None:
    rows = "".join(f"{each} = finder:ROW\n" for each in ("raises", "shapes", "nan", "none"))
    install("finder", FAULTY_DETECTOR, detectors=f"{rows}bare = finder:BARE")
    Image.new("RGB", (90, 80)).save(tmp_path / "photo.png")
    words = ["predict", str(tmp_path / "photo.png"), "--bundle", str(tiny_bundle.path)]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--detector", name])
    said = capsys.readouterr()
    error, fix = said.err.splitlines()[-2:]
    assert ended.value.code == 5
    assert f"detector '{name}' of the package finder 1.0 does not work: {reason}" in error
    assert fix == "fix:   pip install --upgrade finder, or pip uninstall finder"
    assert "Traceback" not in said.err


def test_verbose_shows_where_a_plug_in_failed(
    install: Install, tmp_path: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    install("finder", FAULTY_DETECTOR, detectors="raises = finder:ROW")
    Image.new("RGB", (90, 80)).save(tmp_path / "photo.png")
    words = ["predict", str(tmp_path / "photo.png"), "--bundle", str(tiny_bundle.path)]
    with pytest.raises(SystemExit):
        main([*words, "--detector", "raises", "-vv"])
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert 'return {}["face"]' in said


def test_attributes_of_a_detector_are_its_own(install: Install) -> None:
    """A camera tells a detector that has ``smallest`` which faces to look for."""
    install("finder", FAULTY_DETECTOR, detectors="raises = finder:ROW")
    found = detector("raises")
    assert found.smallest == 0  # type: ignore[attr-defined]
    found.smallest = 40  # type: ignore[attr-defined]
    assert found._detector.smallest == 40  # type: ignore[attr-defined]
    assert not hasattr(found, "widest")


FAULTY_BACKEND = """
import numpy as np
from fer_edge import Backend
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend


class Ours(OnnxRuntimeBackend):
    name = "ours"
    fault = "{fault}"

    @classmethod
    def unavailable_reason(cls):
        return 3

    def load(self):
        if self.fault == "load":
            raise OSError("no device")
        super().load()

    def infer(self, images):
        if self.fault == "exit":
            raise SystemExit(0)
        if self.fault == "shape":
            return np.zeros((len(images), 3), "f4")
        return super().infer(images) if self.fault != "infer" else images.nothing


class Lacking(Backend):
    name = "ours"
    formats = ("onnx",)
"""


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("load", "OSError: no device"),
        ("infer", "AttributeError: 'numpy.ndarray' object has no attribute 'nothing'"),
        ("exit", "SystemExit: 0"),
        ("shape", "infer() returned float32["),
        ("Lacking", "fast:Lacking has no close, infer, load, versions"),
    ],
)
def test_a_backend_that_fails_is_one_line_in_every_command(
    install: Install,
    tiny_bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    fault: str,
    reason: str,
) -> None:
    place = "fast:Lacking" if fault == "Lacking" else "fast:Ours"
    install("fast", FAULTY_BACKEND.format(fault=fault), backends=f"ours = {place}")
    Image.new("L", (48, 48)).save(tmp_path / "face.png")
    words = ["predict", str(tmp_path / "face.png"), "--no-detect", "--backend", "ours"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--bundle", str(tiny_bundle.path)])
    said = capsys.readouterr().err
    assert ended.value.code == 5
    assert f"backend 'ours' of the package fast 1.0 does not work: {reason}" in said
    assert "Traceback" not in said


def test_the_reason_of_a_backend_is_a_text(install: Install) -> None:
    install("fast", FAULTY_BACKEND.format(fault=""), backends="ours = fast:Ours")
    with pytest.raises(UnavailableError, match=r"unavailable_reason\(\) returned int"):
        backend_class("ours").unavailable_reason()


FAULTY_NETWORK = """
from fer_edge import ModelEntry

ENTRY = ModelEntry(target="net:build", summary="faulty", source="a test")


def build(spec):
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(48 * 48, spec.classes)

        def forward(self, images):
            if self.training:
                raise ValueError("only for training")
            return self.last(images.flatten(1)) if {logits} else self.last

    return Net() if {module} else "a network"
"""


@pytest.mark.parametrize(
    ("logits", "module", "reason"),
    [
        (True, True, "ValueError: only for training"),
        (False, True, "of two pictures it gives Linear, not [2, 7] logits"),
        (True, False, "its function returned str, not a torch.nn.Module"),
    ],
)
def test_a_network_that_fails_is_one_line(
    install: Install,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    logits: bool,
    module: bool,
    reason: str,
) -> None:
    """Also inside torch, where nothing of fer-edge is between its layers and the optimiser."""
    code = FAULTY_NETWORK.format(logits=logits, module=module)
    install("net", code, models="own-net = net:ENTRY")
    words = ["train", "--model", "own-net", "--data", "synthetic:140", "--epochs", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--out", str(tmp_path / "runs"), "--name", "a"])
    said = capsys.readouterr().err
    assert ended.value.code == 5
    assert f"model 'own-net' of the package net 1.0 does not work: {reason}" in said
    assert "Traceback" not in said


def test_recipes_are_a_folder_of_files(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"recipes/own-fast.toml": "epochs = 3\n", "recipes/quick.toml": "epochs = 4\n"}
    install("own", "raise RuntimeError('imported')", files, recipes="own = own.recipes")
    assert load_recipe("own-fast").epochs == 3
    assert load_recipe("quick").epochs != 4
    with pytest.raises(RecipeError) as found:
        load_recipe("own-fas")
    assert found.value.fix == "did you mean 'own-fast'?"
    main(["train", "--list-recipes"])
    shown = capsys.readouterr()
    assert "own-fast" in shown.out.split()
    assert shown.err == "note: the recipe 'quick' of own is not used: fer-edge has this name\n"


def test_doctor_says_where_each_comes_from_and_survives_all(install: Install) -> None:
    network(install)
    install(
        "crash", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", models="x = crash:E"
    )
    install("empty", "", recipes="empty = empty.recipes")
    install("full", "", {"recipes/a.toml": "", "recipes/b.toml": ""}, recipes="x = full.recipes")
    install("clash", "", detectors="haar = clash:ROW")
    from fer_edge.cli.doctor import check_plug_ins

    rows = {row.name: row for row in check_plug_ins()}
    assert (rows["plug-in model own-net"].status, rows["plug-in model own-net"].found) == (
        "ok",
        "own-network 1.0",
    )
    assert rows["plug-in model x"].status == "problem"
    assert rows["plug-in model x"].found == "crash 1.0: it crashes (SIGSEGV)"
    assert rows["plug-in recipe x"].found == "full 1.0 (a, b)"
    assert "there is no folder empty.recipes" in rows["plug-in recipe empty"].found
    assert rows["plug-in recipe empty"].fix.startswith("pip install --upgrade empty")
    assert "fer-edge has this name" in rows["plug-in detector"].found
