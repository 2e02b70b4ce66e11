"""Bench results: raw nanoseconds are kept, machines are not mixed, comparisons have limits."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_report import ENVIRONMENT as MADE_UP

from fer_edge.errors import UsageError
from fer_edge.measure.accuracy import compare, evaluate
from fer_edge.measure.comparison import compare_results
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.measure.result import SCHEMA, BenchResult, BenchRow

ENVIRONMENT: dict[str, Any] = {**MADE_UP, "warnings": []}


def row(backend: str, precision: str, milliseconds: float, seed: int = 0) -> BenchRow:
    generator = np.random.default_rng(seed)
    labels = np.arange(70, dtype=np.uint8) % 7
    reference = generator.normal(size=(70, 7)).astype(np.float32)
    logits = reference + generator.normal(0, 0.3, (70, 7)).astype(np.float32)
    ns = np.full(700, round(milliseconds * 1e6), np.int64)
    return (
        BenchRow(backend, precision, "ok", bundle="mine", artifact_sha256="0" * 64)
        .with_accuracy(evaluate(logits, labels), compare(reference, logits, labels))
        .with_latency(LatencySamples((ns, ns + 1, ns + 2)))
    )


def result(*rows: BenchRow) -> BenchResult:
    return BenchResult(
        rows=rows or (row("onnxruntime", "fp32", 1.0), row("onnxruntime", "int8", 0.4, 1)),
        environment=copy.deepcopy(ENVIRONMENT),
        protocol=LatencyProtocol().to_dict(),
        dataset={
            "source": "fer2013.zip",
            "sha256": "1" * 64,
            "synthetic": False,
            "n": 70,
            "split": "public",
            "different_images": 70,
        },
        reference="pytorch fp32",
        created="2026-11-22T00:00:00+00:00",
        fer_edge="0.1.0",
        notes=("a note",),
    )


def on_host(which: BenchResult, host: str) -> BenchResult:
    environment = copy.deepcopy(which.environment)
    environment["machine"]["host"] = host
    return replace(which, environment=environment)


def test_json_has_the_promised_shape_and_comes_back(tmp_path: Path) -> None:
    before = result(row("onnxruntime", "int8", 0.4), BenchRow("tensorrt", "", "unavailable"))
    content = json.loads(before.to_json())
    assert {"rows", "environment", "schema", "protocol", "dataset"} <= set(content)
    first = content["rows"][0]
    for name in ("backend", "precision", "status", "top1", "flips", "p50_ms", "p90_ms", "p99_ms"):
        assert name in first
    assert 0 <= first["top1"] <= 1
    assert first["p50_ms"] == pytest.approx(0.4, abs=1e-5)
    assert first["ns"][0] == [400_000] * 700
    assert content["rows"][1]["p50_ms"] is None
    before.save(tmp_path / "a.json")
    assert BenchResult.load(tmp_path / "a.json") == before


def test_each_repeat_is_one_line_of_the_file() -> None:
    text = result().to_json()
    lines = [line for line in text.splitlines() if "400000,400000" in line]
    assert len(lines) == 1
    assert "@ns" not in text


def test_a_summary_has_no_nanoseconds() -> None:
    content = json.loads(result().to_json(raw=False))
    assert "ns" not in content["rows"][0]
    assert BenchResult.from_json(json.dumps(content)).rows[0].ns is None


def test_rows_of_one_bundle_keep_the_floor() -> None:
    null = BenchRow("null", "", "ok")
    mine, other = row("onnxruntime", "fp32", 1.0), BenchRow("openvino", "fp32", "ok", "other")
    whole = result(null, mine, other)
    assert whole.bundles == ("mine", "other")
    assert whole.of_bundle("mine").rows == (null, mine)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not the result of a bench"),
        ('{"rows": []}', "has no 'environment'"),
    ],
)
def test_what_is_no_result_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as caught:
        BenchResult.load(path)
    assert "x.json" in str(caught.value)


def test_a_missing_file_another_schema_and_a_bad_row_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        BenchResult.load(tmp_path / "none.json")
    content = result().to_dict()
    with pytest.raises(UsageError, match=f"reads {SCHEMA}"):
        BenchResult.from_json(json.dumps({**content, "schema": 99}))
    row = content["rows"][0]
    for rows, message in (
        (3, r"rows is 3"),
        ([3], r"rows\[0\] is 3"),
        ([{"backend": "x"}], r"rows\[0\].precision is missing"),
        ([{**row, "p50_ms": "fast"}], r"rows\[0\].p50_ms is 'fast'"),
        ([{**row, "delta_ci95": [1]}], r"rows\[0\].delta_ci95 is \[1\]"),
    ):
        with pytest.raises(UsageError, match=f"^x.json: {message}"):
            BenchResult.from_json(json.dumps({**content, "rows": rows}), "x.json")


def test_a_comparison_on_one_machine_gives_ratios() -> None:
    a = result(row("onnxruntime", "int8", 0.4), row("openvino", "int8", 0.5))
    b = result(row("onnxruntime", "int8", 0.2, 1), row("pytorch", "fp32", 2.0))
    compared = compare_results(a, b)
    assert [(r.backend, bool(r.a), bool(r.b)) for r in compared.rows] == [
        ("onnxruntime", True, True),
        ("openvino", True, False),
        ("pytorch", False, True),
    ]
    assert compared.rows[0].speedup == pytest.approx(2.0, rel=1e-3)
    assert compared.rows[0].delta_top1 == pytest.approx(b.rows[0].top1 - a.rows[0].top1)  # type: ignore[operator]
    assert compared.rows[1].speedup is None
    assert compared.warnings == ("these are two runs: to claim a speed, measure both in one run",)


def test_a_comparison_across_machines_says_so_and_gives_no_ratio() -> None:
    b = on_host(result(), "bbbbbbbbbbbb")
    b = replace(
        b,
        dataset={**b.dataset, "sha256": "2" * 64, "synthetic": True},
        protocol=LatencyProtocol.for_quick().to_dict(),
        environment={**b.environment, "threads": 2, "packages": {"onnxruntime": "2.0"}},
    )
    compared = compare_results(result(), b)
    assert all(r.speedup is None and r.delta_top1 is None for r in compared.rows)
    said = "\n".join(compared.warnings)
    assert said.startswith("DIFFERENT MACHINES")
    for words in (
        "different images",
        "B has SYNTHETIC",
        "different threads: A 1, B 2",
        "different protocols: warmup_s",
        "different onnxruntime: A 1.0, B 2.0",
    ):
        assert words in said


def test_single_bundles_of_different_names_stand_side_by_side() -> None:
    b = result(replace(row("onnxruntime", "int8", 0.2), bundle="newer"))
    compared = compare_results(result(row("onnxruntime", "int8", 0.4)), b)
    assert len(compared.rows) == 1
    assert compared.rows[0].speedup == pytest.approx(2.0, rel=1e-3)
