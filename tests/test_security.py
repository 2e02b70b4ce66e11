"""SECURITY.md's promises: each names tests that exist, and those of the whole package are here."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fer_edge"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "engines").rglob("*.py")])

PROGRAMS = {
    "fer_edge/backends/health.py": "asks nvidia-smi about the GPU",
    "fer_edge/trt/jetson.py": "asks the Jetson's tools about the power mode",
    "fer_edge/measure/environment.py": "asks git and nvidia-smi what a result was measured on",
}
NETWORK = {
    "fer_edge/models/vgg.py": "ImageNet's weights, by revision and digest",
    "fer_edge/serve/guard.py": "the host's name, for the names of a server; addresses are split",
    "fer_edge/serve/server.py": "listens; it connects to nobody",
    "fer_edge/video/service.py": "tells systemd that it runs, by a socket of this machine",
    "fer_edge/video/window.py": "asks if there is a display; a URL is opened by OpenCV",
    "fer_edge/training/search/study.py": "the host's name, for the names of workers",
}


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for path in SOURCES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def _imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names


def _called(tree: ast.Module) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_every_promise_names_tests_that_exist() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    table = text.partition("| promise | tests |\n")[2].partition("\n\n")[0]
    rows = table.splitlines()[1:]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"(tests/[\w/]+\.py)::(\w+)", row)
        assert named, row
        for file, test in named:
            defined = (ROOT / file).read_text(encoding="utf-8")
            assert re.search(rf"^def {test}\(", defined, re.MULTILINE), f"{file}::{test}"


def test_nothing_can_load_a_pickle() -> None:
    for name, tree in _trees():
        bad = _imported(tree) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve"}
        assert not bad, f"{name} imports {bad}"
        for function, call in _called(tree):
            if function in {"torch.load", "torch.jit.load", "pandas.read_pickle"}:
                pytest.fail(f"{name}:{call.lineno} calls {function}")
            if function in {"np.load", "numpy.load", "np.lib.format.read_array"}:
                allowed = {key.arg: ast.unparse(key.value) for key in call.keywords}
                assert allowed.get("allow_pickle") == "False", f"{name}:{call.lineno}"


def test_only_the_machine_is_asked_by_programs() -> None:
    found = set()
    for name, tree in _trees():
        starts = {"subprocess", "pty", "pexpect"} & _imported(tree)
        calls = {f for f, _ in _called(tree) if re.match(r"os\.(system|popen|exec|spawn|posix)", f)}
        if (starts or calls) and name.startswith("fer_edge/"):
            found.add(name)
        for function, call in _called(tree):
            shell = [key for key in call.keywords if key.arg == "shell"]
            assert not shell, f"{name}:{call.lineno} {function} uses a shell"
            assert function not in {"eval", "exec"}, f"{name}:{call.lineno}"
    assert found == set(PROGRAMS)


def test_only_one_module_reaches_the_network() -> None:
    reach = {"socket", "urllib", "http", "requests", "httpx", "huggingface_hub", "ftplib", "ssl"}
    found = {name for name, tree in _trees() if reach & _imported(tree)}
    assert {name for name in found if name.startswith("fer_edge/")} == set(NETWORK)


def test_the_server_connects_to_nobody() -> None:
    outward = {"connect", "connect_ex", "create_connection", "open_connection", "urlopen"}
    server = [(name, tree) for name, tree in _trees() if name.startswith("fer_edge/serve/")]
    called = {function.rpartition(".")[2] for _, tree in server for function, _ in _called(tree)}
    assert "bind" in called  # the names of calls are found
    assert not called & outward
