"""JSON files of runs, benches and plans with any wrong field: one line of error, or no harm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_forged import code_of, controls, error_of, forged_json
from test_files import ODD, odd_files

from fer_edge.bundle.manifest import DatasetInfo
from fer_edge.errors import FerEdgeError
from fer_edge.measure.comparison import compare_results
from fer_edge.measure.record import verifications_of, with_verification
from fer_edge.measure.result import BenchResult
from fer_edge.pretrained import pretrained_path
from fer_edge.runs.cross_validation import CrossValidation
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.recipe import Recipe
from fer_edge.trt.sidecar import PlanSidecar

ROW = {"epoch": 1, "lr": 0.1, "train_loss": 1.0, "images_per_s": 9.0, "seconds": 2.0} | {
    f"public_{name}": 0.5 for name in ("loss", "top1", "macro_f1")
}
TEACHER = {"name": "t", "path": "/t", "sha256": "1" * 64, "model": "compact", "fold": 1}


def _run(folder: Path) -> dict[str, Any]:
    run = create_run(folder, "mine", Recipe(), DatasetInfo(synthetic=True), "synthetic:70")
    run.update(status="finished", weights={"model.safetensors": ("0" * 64,)})
    content = json.loads((run.path / "run.json").read_text())
    more = {"best": ROW, "last": ROW, "teachers": [TEACHER], "soup": [TEACHER], "votes": "/v.csv"}
    init = {"path": "/x", "sha256": "0" * 64, "name": "n", "commands": ["a"]}
    return {**content, **more, "init": init}


def _use_run(path: Path) -> None:
    run = RunFolder(path.parent)
    info = run.info()
    run.recipe()
    assert info.kind in {"trained", "soup", "qat"}
    run.update(status="failed")
    assert run.info().status == "failed"


def test_a_forged_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = _run(tmp_path)
    path = tmp_path / "mine" / "run.json"
    for what, forged in forged_json(content, 120):
        path.write_text(json.dumps(forged))
        error_of(lambda: _use_run(path), what)
        path.write_text(json.dumps(forged))
        for words in (("plot", "history"), ("build",), ("evaluate",)):
            code = code_of([*words, str(path.parent)], what)
            assert code in {2, 6}, what  # it has no weights
        shown = capsys.readouterr()
        assert not controls(shown.out + shown.err), what


def _use_folds(path: Path) -> None:
    validation = CrossValidation(path.parent)
    validation.recipe()
    if validation.info().folds < 100:
        list(validation.splits), list(validation.runs)


def test_a_forged_cross_validation(tmp_path: Path) -> None:
    result = {"fold": "fold-1", "epochs": 3, "best_epoch": 2} | {
        f"{kind}{name}": 0.5 for kind in ("", "best_") for name in ("top1", "macro_f1", "loss")
    }
    content = {
        **{"schema": 1, "name": "cv", "created": "2026-01-01", "status": "running", "folds": 3},
        **{"seed": 1, "duplicates_across": False, "recipe": Recipe().to_dict()},
        **{"dataset": {"sha256": "0", "synthetic": True}, "data": "synthetic:70"},
        **{"results": [result], "summary": {"top1": {"mean": 0.5, "sd": 0.1}}},
    }
    path = tmp_path / "cv.json"
    path.write_text(json.dumps(content))
    _use_folds(path)
    for what, forged in forged_json(content, 250):
        path.write_text(json.dumps(forged))
        error_of(lambda: _use_folds(path), what)


def _bench() -> dict[str, Any]:
    row = {"backend": "onnxruntime", "precision": "int8", "status": "ok", "bundle": "b", "n": 9}
    row |= {"top1": 0.5, "p50_ms": 1.0, "ns": [[1, 2]], "artifact": "a", "artifact_sha256": "0"}
    machine = {"host": "h", "arch": "x", "cpu": None, "cores": 2, "gpu": [{"name": "g"}]}
    return {
        **{"schema": 1, "created": "2026-01-01", "fer_edge": "0", "reference": "r", "notes": ["n"]},
        "rows": [row, {**row, "precision": "fp32"}],
        "environment": {
            "machine": {**machine, "jetson": None},
            **{"threads": 1, "packages": {"numpy": "1"}, "power_mode": None},
        },
        "protocol": {"quick": True},
        "dataset": {"sha256": "0", "source": "s", "split": "public", "n": 9, "synthetic": True},
    }


def test_a_forged_bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good.json"
    good.write_text(json.dumps(_bench()))
    compare_results(BenchResult.load(good), BenchResult.load(good))
    path, used = tmp_path / "x.json", 0
    for what, forged in forged_json(_bench(), 300):
        path.write_text(json.dumps(forged))
        for i, words in enumerate(([good, path], [path, good])):
            fmt = ("table", "json", "csv", "markdown")[(used + i) % 4]
            code = code_of(["bench", "compare", *map(str, words), "--format", fmt], what)
            assert code in {0, 2}, what
            used += code == 0
        shown = capsys.readouterr()
        assert not controls(shown.out + shown.err), what
    assert used > 20


def test_forged_verifications() -> None:
    text = (pretrained_path("fer2013") / "verify.json").read_text()
    content = json.loads(text)
    one = content["verifications"][0]
    digests = {one["engine"]["artifact_sha256"]}
    assert json.loads(with_verification(text, one))["verifications"]

    def use(forged: object) -> None:
        with_verification(json.dumps(forged), one)
        verifications_of(json.dumps(forged), digests)

    small = {**content, "verifications": [one]}
    for what, forged in forged_json(small, 300):
        error_of(lambda forged=forged: use(forged), what)


def test_a_forged_plan_sidecar(tmp_path: Path) -> None:
    content = {
        **{"package": "tensorrt", "tensorrt": "10.3.0", "sm": 87, "gpu": "Orin"},
        **{"target": "orin", "precision": "int8", "parent_sha256": "0" * 64, "sha256": "0" * 64},
        **{"size": 3, "batch": {"min": 1, "opt": 1, "max": 8}, "build_seconds": 1.5},
        **{"input": {"name": "x"}, "output": {"name": "y"}, "created": "2026", "schema": 1},
        **{"flags": ["a"], "warnings": ["w"], "layers": 3},
    }
    plan = tmp_path / "x.plan"

    def use() -> None:
        sidecar = PlanSidecar.read(plan)
        sidecar.mismatch("tensorrt", "10.13.0", 90)
        sidecar.build_command(plan)
        sidecar.check_here(plan, "tensorrt", "10.3.0", 87)

    (tmp_path / "x.json").write_text(json.dumps(content))
    use()
    for what, forged in forged_json(content, 250):
        (tmp_path / "x.json").write_text(json.dumps(forged))
        error_of(use, what)


READERS: dict[str, Callable[[Path], object]] = {
    "run.json": lambda path: RunFolder(path.parent).info(),
    "cv.json": lambda path: CrossValidation(path.parent).info(),
    "bench.json": BenchResult.load,
    "x.json": lambda path: PlanSidecar.read(path.with_suffix(".plan")),
}


@pytest.mark.parametrize("kind", [name for name in ODD if name != "dangling"])
@pytest.mark.parametrize("name", READERS)
def test_only_regular_files_are_read(name: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    with odd_files(tmp_path / "odd") as odd:
        (tmp_path / name).symlink_to(odd[kind])
        with pytest.raises(FerEdgeError) as raised:
            READERS[name](tmp_path / name)
        assert name in str(raised.value)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b"NaN", b"null", b"{}", b'{"a":1e999}'],
)
def test_what_is_no_record_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FerEdgeError, match=name):
        READERS[name](tmp_path / name)
