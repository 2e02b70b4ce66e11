"""The runner's rule for which engine is used against Python's, over a table of bundles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from usable_cases import HERE, cases, make_bundle

from fer_edge.backends import backend_class
from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.bundle import Bundle
from fer_edge.bundle.usable import UsableEngine, usable_engine
from fer_edge.pretrained import pretrained_path

if TYPE_CHECKING:
    from conftest import Runner


def expected(bundle: Bundle, backend: str, precision: str | None) -> dict[str, Any]:
    """Return Python's answer as a JSON-ready row."""
    found = usable_engine(bundle, backend_class(backend), precision)
    if isinstance(found, UsableEngine):
        assert found.artifact is not None
        model = found.artifact.path
        return {"backend": backend, "precision": found.precision, "model": model}
    return {"error": found.message, "fix": found.fix, "code": found.error.exit_code}


def answer(
    runner: Runner, bundle: Path, backend: str | None, precision: str | None
) -> dict[str, Any]:
    """Return the runner's answer in the same form."""
    options = ["--backend", backend] if backend else []
    options += ["--precision", precision] if precision else []
    result = runner("--choose", *options, bundle, FAKE_SM=str(HERE[1]))
    if result.returncode == 0:
        row: dict[str, Any] = json.loads(result.stdout)
        return row
    error, fix = result.stderr.splitlines()
    return {
        "error": error.removeprefix("error: "),
        "fix": fix.removeprefix("fix:   "),
        "code": result.returncode,
    }


def test_the_runner_chooses_as_python_does(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorRTBackend, "_here", classmethod(lambda cls: HERE))
    table = []
    for number, case in enumerate(cases()):
        if case.backend.startswith("tensorrt") and not runner.tensorrt:
            continue
        # A space: a path in a command is quoted.
        bundle = make_bundle(tmp_path / f"bundle {number}", case)
        table.append((case, bundle.path, expected(bundle, case.backend, case.precision)))
    shipped = Bundle.open(pretrained_path())
    table += [
        (name, shipped.path, expected(shipped, "openvino", name)) for name in ("fp16", "int8")
    ]
    assert {row["code"] for _, _, row in table if "code" in row} >= {2}
    assert {row["precision"] for _, _, row in table if "precision" in row} == {
        "int8",
        "fp16",
        "fp32",
    }
    different = []
    for case, path, wanted in table:
        backend, precision = (
            ("openvino", case) if isinstance(case, str) else (case.backend, case.precision)
        )
        got = answer(runner, path, backend, precision)
        if got != wanted:
            different.append((case, wanted, got))
    assert different == []


def test_without_a_backend_the_first_with_a_usable_engine_is_taken(
    runner: Runner, tiny_bundle: Bundle
) -> None:
    # There is no plan: TensorRT, which comes first where it was built in, has nothing to run.
    assert answer(runner, tiny_bundle.path, None, None)["model"] == "model.int8.openvino.onnx"
