"""What a signal handler raises stays what it is, in everything that the package calls.

``fer_edge.errors.of_signal_handler`` is the one rule; an error of ours that is made where such an
exception is handled lets it pass.
"""

from __future__ import annotations

import ast
import csv
import functools
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

import fer_edge
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle
from fer_edge.bundle.packing import pack_bundle, unpack_bundle
from fer_edge.cli import main
from fer_edge.convert.graph import read_graph
from fer_edge.convert.reading import model_from_file
from fer_edge.data import kinds, load
from fer_edge.data.readers_npz import read_npz
from fer_edge.errors import FerEdgeError, UsageError, of_signal_handler
from fer_edge.faces import face_from_image
from fer_edge.files import read_toml
from fer_edge.runs.recipe import load_recipe


class OwnError(Exception):
    pass


ERRORS = [ValueError, RuntimeError, TimeoutError, OwnError]
FACES = np.zeros((1, 1, 48, 48), np.uint8)


ALONE = "FER_EDGE_TEST_ALONE"


class Interrupt:
    """A callable object and a method that raise, as the handlers of applications do."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __call__(self, signum: int, frame: object) -> None:
        raise self.error

    def method(self, signum: int, frame: object) -> None:
        raise self.error

    def all_arguments(self, *arguments: object, **more: object) -> None:
        self.method(0, None)

    def replaced(self, signum: int, frame: object) -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        raise self.error


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def interrupt(patch: pytest.MonkeyPatch, where: Any, name: str, handler: Any) -> None:
    """Let the signal arrive within the next call of ``where.name``."""
    real = getattr(where, name)
    signal.signal(signal.SIGUSR1, handler)

    def interrupted(*arguments: Any, **options: Any) -> Any:
        # After the test the signal would end the process.
        if signal.getsignal(signal.SIGUSR1) is not signal.SIG_DFL:
            signal.raise_signal(signal.SIGUSR1)
        return real(*arguments, **options)

    patch.setattr(where, name, interrupted)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, _tiny_template: Path) -> Path:
    """A folder with one input of each kind."""
    folder = tmp_path_factory.mktemp("made")
    face = Image.fromarray(np.arange(48 * 48, dtype=np.uint8).reshape(48, 48))
    face.save(folder / "face.png")
    for name in ("angry", "happy"):
        (folder / "tree" / name).mkdir(parents=True)
        face.save(folder / "tree" / name / f"{name}.png")
    with zipfile.ZipFile(folder / "tree.zip", "w") as archive:
        for path in sorted((folder / "tree").rglob("*.png")):
            archive.write(path, path.relative_to(folder / "tree"))
    pixels = " ".join(["7"] * 48 * 48)
    (folder / "fer2013.csv").write_text(f"emotion,pixels,Usage\n3,{pixels},Training\n")
    (folder / "set.npz").write_bytes(b"PK")
    (folder / "recipe.toml").write_text("[optim]\nlr = 0.1\n")
    pack_bundle(Bundle.open(_tiny_template), folder / "tiny.fer")
    return folder


CALLS: dict[str, tuple[Any, str, Callable[[Path, Path], object]]] = {
    "picture": (Image, "open", lambda made, _: face_from_image(made / "face.png")),
    "orientation": (
        Image.Image,
        "getexif",
        lambda made, _: face_from_image(made / "face.png"),
    ),
    "tree": (
        Image,
        "open",
        lambda made, _: load(made / "tree", cache=False, classes="own"),
    ),
    "zip": (
        zipfile.ZipFile,
        "open",
        lambda made, _: load(made / "tree.zip", cache=False, classes="own"),
    ),
    "zip's list": (
        zipfile.ZipFile,
        "_RealGetContents",
        lambda made, _: load(made / "tree.zip", cache=False),
    ),
    "kind of a zip": (
        zipfile.ZipFile,
        "namelist",
        lambda made, _: kinds._kind_of_zip(made / "tree.zip"),
    ),
    "zip or not": (
        zipfile,
        "is_zipfile",
        lambda made, _: kinds._is_zip(made / "face.png"),
    ),
    "csv": (csv, "reader", lambda made, _: load(made / "fer2013.csv", cache=False)),
    "npz": (zipfile, "ZipFile", lambda made, _: read_npz(made / "set.npz")),
    "toml": (Path, "stat", lambda made, _: read_toml(made / "recipe.toml")),
    "recipe": (msgspec, "convert", lambda made, _: load_recipe(made / "recipe.toml")),
    "manifest": (json, "loads", lambda _, bundle: Bundle.open(bundle)),
    "packed": (
        Path,
        "mkdir",
        lambda made, _: unpack_bundle(made / "tiny.fer", made / "unpacked" / "tiny"),
    ),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("name", CALLS)
def test_what_reads_lets_it_pass(
    name: str,
    error: type[Exception],
    made: Path,
    tiny_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    where, attribute, call = CALLS[name]
    raised = error("stop")
    interrupt(monkeypatch, where, attribute, Interrupt(raised))
    with pytest.raises(error, match=r"^stop$") as caught:
        call(made, tiny_bundle.path)
    assert caught.value is raised


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("attribute", ["load_model_from_string", "checker"])
@pytest.mark.parametrize("read", [read_graph, model_from_file])
def test_readers_of_graphs_let_it_pass(
    read: Callable[[Any], object],
    attribute: str,
    error: type[Exception],
    tiny_bundle: Bundle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import onnx

    raised = error("stop")
    where = (onnx, attribute) if attribute != "checker" else (onnx.checker, "check_model")
    interrupt(monkeypatch, *where, Interrupt(raised))
    with pytest.raises(error, match=r"^stop$") as caught:
        read(tiny_bundle.path / "model.fp32.onnx")
    assert caught.value is raised


@pytest.mark.parametrize("error", ERRORS)
# Without OpenVINO: the patched request outlives its core, and the process crashes later.
@pytest.mark.parametrize("backend", [OnnxRuntimeBackend])
def test_backends_let_it_pass(
    backend: Any, error: type[Exception], tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = error("stop")
    with backend(tiny_bundle.path / "model.fp32.onnx") as engine:
        where, name = (engine, "_session") if backend is OnnxRuntimeBackend else (engine, "_one")
        real = getattr(where, name)
        method = "run" if backend is OnnxRuntimeBackend else "infer"

        class Native:
            def __getattr__(self, attribute: str) -> Any:
                if attribute == method:
                    signal.raise_signal(signal.SIGUSR1)
                return getattr(real, attribute)

        signal.signal(signal.SIGUSR1, Interrupt(raised))
        monkeypatch.setattr(where, name, Native())
        with pytest.raises(error, match=r"^stop$") as caught:
            engine.infer(FACES)
        assert caught.value is raised


def test_bench_and_the_command_line_let_it_pass() -> None:
    """In a process of its own, since this one has interrupted loads behind it."""
    test = f"{__file__}::test_bench_and_the_command_line"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(
        command,
        env={**os.environ, ALONE: "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


@pytest.mark.skipif(ALONE not in os.environ, reason="run by the test above")
def test_bench_and_the_command_line(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = TimeoutError("stop")  # an OSError, which the command line would explain
    words = ["bench", str(tiny_bundle.path), "--data", "synthetic:140", "--quick"]
    with monkeypatch.context() as patch:
        interrupt(patch, OnnxRuntimeBackend, "load", Interrupt(raised))
        with pytest.raises(TimeoutError) as caught:
            main([*words, "--backend", "onnxruntime"])
        assert caught.value is raised
    # Only here: the test's own process calls this function, too.
    with monkeypatch.context() as patch:
        interrupt(patch, Path, "lstat", Interrupt(raised))
        with pytest.raises(TimeoutError) as caught:
            main(["inspect", str(tiny_bundle.path)])
    assert caught.value is raised


@pytest.mark.parametrize("form", ["function", "method", "partial", "object", "all", "replaced"])
def test_every_form_of_a_handler(form: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("stop")
    thing = Interrupt(error)

    def function(signum: int, frame: object) -> None:
        raise error

    handlers = {
        "function": function,
        "method": thing.method,
        "partial": functools.partial(functools.partial(lambda a, b: function(a, b))),
        "object": thing,
        "all": thing.all_arguments,
        "replaced": thing.replaced,
    }
    interrupt(monkeypatch, Image, "open", handlers[form])
    with pytest.raises(ValueError, match=r"^stop$") as caught:
        face_from_image(made / "face.png")
    assert caught.value is error


def test_an_error_of_the_application_that_it_handles_is_its_own(tmp_path: Path) -> None:
    """It may use us where it handles what its handler raised: our errors are as always then."""
    signal.signal(signal.SIGUSR1, Interrupt(TimeoutError("stop")))
    try:
        signal.raise_signal(signal.SIGUSR1)
    except TimeoutError:
        with pytest.raises(UsageError, match="there is no image"):
            face_from_image(tmp_path / "none.png")


def test_other_errors_become_ours(made: Path, tmp_path: Path) -> None:
    signal.signal(signal.SIGUSR1, Interrupt(TimeoutError("stop")))
    (tmp_path / "face.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    with pytest.raises(FerEdgeError):
        face_from_image(tmp_path / "face.png")
    with pytest.raises(FerEdgeError):
        read_npz(made / "set.npz")


def test_libraries_are_told_from_what_is_raised_into_a_thread() -> None:
    errors: list[Exception] = []
    for kind in (OwnError, RuntimeError):
        try:
            raise kind("x")
        except Exception as error:
            errors.append(error)
    assert [of_signal_handler(error) for error in errors] == [False, False]
    assert [of_signal_handler(error, "onnxruntime") for error in errors] == [True, False]


def broad_handlers() -> Iterator[tuple[str, ast.ExceptHandler]]:
    """Yield (place, handler) of ``except Exception`` and of ``except BaseException``."""
    package = Path(fer_edge.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None
                or (
                    isinstance(node.type, ast.Name)
                    and node.type.id in {"Exception", "BaseException"}
                )
            ):
                yield f"{path.relative_to(package)}:{node.lineno}", node


def passes(handler: ast.ExceptHandler) -> bool:
    """Whether a handler raises again, asks the rule, or ends in an error of ours that asks it."""
    last = handler.body[-1]
    if isinstance(last, ast.Raise):
        return True
    called = [
        node.func.id
        for node in ast.walk(handler)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return "of_signal_handler" in called


def test_every_broad_handler_asks_the_rule() -> None:
    kept = {
        "trt/build_progress.py",  # it keeps the exception, and raises it after the build
        # Threads, which keep it for the caller, and a process of its own: no handler runs there.
        "measure/throughput.py",
        "video/frames.py",
        "serve/guard.py",  # signals end the event loop, and not a request
    }
    found = list(broad_handlers())
    assert len(found) > 15
    wrong = [
        place
        for place, handler in found
        if not passes(handler) and place.partition(":")[0] not in kept
    ]
    assert wrong == []
