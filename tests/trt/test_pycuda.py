"""Our calls of pycuda against the real package, where a Python has it, and against its API.

pycuda is compiled when it is installed, so few machines have it. What it documents of the names
that we use is in pycuda_api.json; with FER_EDGE_PYCUDA_PYTHON=/path/to/python the package itself
runs, over a driver of our own.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import shutil
import sys

import pytest
from fake_cuda import FakePyCuda
from pycuda_contract import API, NAMES, ask

from fer_edge.trt.cuda_pycuda import PyCuda

TABLE = json.loads(API.read_text(encoding="utf-8"))


def parameters(signature: str) -> tuple[int, int]:
    """Return how many arguments a signature needs and takes at most, self not counted."""
    inside = signature.partition("(")[2].rpartition(")")[0]
    needed, _, optional = inside.partition("[")
    names = [part for part in re.sub(r"\(\w+\)", "", needed).split(",") if part.strip()]
    more = [part for part in optional.split(",") if part.strip(" []")]
    own = "__init__" in signature
    required = [name for name in names if "=" not in name]
    return len(required) - own, len(names) - own + len(more)


def test_every_call_is_one_that_pycuda_documents() -> None:
    tree = ast.parse(inspect.getsource(PyCuda))
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = {
        name.removeprefix("self._drv.").replace("(0)", "")
        for name in used
        if name.startswith("self._drv.")
    }
    assert used <= {*NAMES, "Context", "event_flags", "host_alloc_flags"}
    assert set(TABLE["names"]) == set(NAMES), "run: PYTHON_WITH_PYCUDA pycuda_contract.py --write"
    checked = 0
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "self._do":
            continue
        name = ast.unparse(node.args[0]).removeprefix("self._drv.")
        if name not in TABLE["names"]:
            continue  # a method of an object: the real package runs it below
        low, high = parameters(TABLE["names"][name].split(" | ")[0])
        assert low <= len(node.args) - 1 <= high, f"{name}: {TABLE['names'][name]}"
        checked += 1
    assert checked >= 6


def test_the_fake_has_what_pycuda_has() -> None:
    fake = FakePyCuda()
    for name in NAMES:
        value = fake
        for part in name.replace("DeviceAllocation", "_memory").split("."):
            part = part.replace("PagelockedHostAllocation", "_memory")
            if part == "handle":
                break  # set by its constructor
            value = getattr(value, part)


def test_the_real_package_takes_our_calls_and_keeps_nothing() -> None:
    if not (shutil.which("gcc") and shutil.which("nm")):
        pytest.skip("gcc and nm are needed for a driver of our own")
    answer = ask(os.environ.get("FER_EDGE_PYCUDA_PYTHON", sys.executable))
    if answer is None:
        pytest.skip("pip install 'fer-edge[pycuda]', or FER_EDGE_PYCUDA_PYTHON=/path/to/python")
    if answer["version"] == TABLE["version"]:
        assert answer["names"] == TABLE["names"]
    run = answer["run"]
    for wait in ("auto", "spin", "block"):
        first, second = run[wait]
        assert first == second
        # Half of it was copied back; the other half keeps the zeros of the page-locked memory.
        assert first["copied"] == [*range(32), *[0] * 32]
        assert first["zeroed"] == [0] * 8
        assert first["mapped"]
        assert first["elapsed"] == 125_000
        assert first["handle"]
        assert first["memory"]
        alive = run[f"{wait} alive"]
        # "pushed" is CUDA's own stack in threads that have ended: a release does not pop it.
        kept = {key: value for key, value in alive.items() if key not in {"pushed", "queries"}}
        assert not any(kept.values()), kept
    assert run["spin alive"]["queries"] > 0, "spin does not ask the stream"
    assert run["block alive"]["queries"] == run["spin alive"]["queries"]
    assert run["no device"].startswith("pycuda cannot use the GPU: cuInit failed")
