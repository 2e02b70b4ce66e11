"""Numbers are rounded once and have a unit; a value that was not measured is not shown as 0."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fer_edge.errors import MissingExtraError, UsageError
from fer_edge.measure.accuracy import compare, evaluate
from fer_edge.measure.comparison import compare_results
from fer_edge.measure.gate import Speedup, judge
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.measure.proof import Side, Verification
from fer_edge.measure.result import BenchResult, BenchRow
from fer_edge.report import figures
from fer_edge.report.figures import accuracy_against_latency
from fer_edge.report.rows import csv_text
from fer_edge.report.table import (
    bench_caption,
    bench_numbers,
    bench_rows,
    bench_tables,
    bench_title,
    comparison_numbers,
    comparison_rows,
    megabytes,
    milliseconds,
    percent,
    points,
    verification_caption,
    verification_numbers,
    verification_rows,
    verification_title,
)

LABELS = (np.arange(700) % 7).astype(np.uint8)
REFERENCE = np.eye(7, dtype=np.float32)[LABELS]


def wrong(count: int) -> np.ndarray:
    logits = REFERENCE.copy()
    logits[:count] = np.roll(logits[:count], 1, axis=1)
    return logits


def row(backend: str, precision: str, ms: float, lost: int | None, **more: object) -> BenchRow:
    logits = wrong(lost or 0)
    agreement = None if lost is None else compare(REFERENCE, logits, LABELS)
    ns = np.full(700, round(ms * 1e6), np.int64)
    made = (
        BenchRow(backend, precision, "ok", bundle="mine", provider="CPU", size_bytes=2_976_921)
        .with_accuracy(evaluate(logits, LABELS), agreement)
        .with_latency(LatencySamples((ns, ns + 1000)))
    )
    return replace(made, **more)  # type: ignore[arg-type]


@pytest.fixture
def result() -> BenchResult:
    null = BenchRow("null", "", "ok", provider="none", note="the harness's own floor")
    null = null.with_latency(LatencySamples((np.full(50, 11_000),)))
    return BenchResult(
        rows=(
            null,
            row("pytorch", "fp32", 2.5, None, note="reference"),
            row("onnxruntime", "fp32", 0.9, 0),
            row("onnxruntime", "int8", 0.3, 3, speedup=3.0),
            BenchRow("tensorrt", "", "unavailable", bundle="mine", note="there is no | GPU"),
        ),
        environment={
            "machine": {
                "host": "a",
                "arch": "x86_64",
                "cpu": "A CPU",
                "cores": 2,
                "gpu": [{"name": "A GPU"}],
                "jetson": None,
            },
            "threads": 2,
            "packages": {},
            "warnings": ["the machine is busy"],
        },
        protocol=LatencyProtocol().to_dict(),
        dataset={
            "source": "fer2013.zip",
            "sha256": "1" * 64,
            "synthetic": False,
            "n": 700,
            "split": "public",
        },
        reference="pytorch fp32",
        created="then",
        fer_edge="0.1.0",
        notes=("a note",),
    )


def test_formats() -> None:
    assert percent(0.67961) == "67.96 %"
    assert points(-0.000836) == "-0.08"
    assert points(-0.00001) == "+0.00"
    assert points(0.0) == "+0.00"
    assert milliseconds(0.3124) == "0.312"
    assert megabytes(2_976_921) == "2.98 MB"
    assert megabytes(21_548) == "21.5 kB"
    assert [form(None) for form in (percent, points, milliseconds, megabytes)] == [None] * 4


def test_csv_has_no_control_characters() -> None:
    rows = [{"bundle": "a\x00b", "note": 'two\nlines, "quoted"', "ms": 1.5}]
    (read,) = csv.DictReader(io.StringIO(csv_text(rows)))
    assert read == {"bundle": "a\\u0000b", "note": 'two\nlines, "quoted"', "ms": "1.5"}
    assert csv_text([]) == ""


def test_the_title_names_images_machine_threads_and_protocol(result: BenchResult) -> None:
    assert bench_title(result) == (
        "fer2013.zip, public, n = 700 | A CPU, 2 cores, A GPU, 2 threads | batch 1, back to back, "
        "median of 5 repeats of >= 10 s and >= 1,024 queries, interleaved"
    )


def test_synthetic_and_quick_are_loud(result: BenchResult) -> None:
    made = replace(
        result,
        dataset={**result.dataset, "synthetic": True},
        protocol=LatencyProtocol.for_quick().to_dict(),
    )
    assert bench_title(made).startswith("SYNTHETIC faces, not FER2013")
    assert "| QUICK: batch 1" in bench_title(made)


def test_rows(result: BenchResult) -> None:
    null, reference, fp32, int8, tensorrt = bench_rows(result)
    assert list(int8.items()) == [
        ("backend", "onnxruntime"),
        ("precision", "int8"),
        ("status", "ok"),
        ("size", "2.98 MB"),
        ("top-1", "99.57 %"),
        ("delta", "-0.43"),
        ("macro-F1", "99.57 %"),
        ("flips", "3"),
        ("p50 ms", "0.300"),
        ("p90 ms", "0.300"),
        ("p99 ms", "0.300"),
        ("images/s", "3,328"),
        ("note", "3.00x its fp32"),
    ]
    assert (fp32["delta"], fp32["flips"]) == ("+0.00", "0")
    assert (reference["delta"], reference["flips"], reference["note"]) == ("-", "-", "reference")
    assert (null["top-1"], null["p50 ms"], null["p99 ms"]) == ("-", "0.011", None)
    assert (tensorrt["precision"], tensorrt["top-1"], tensorrt["flips"]) == ("-", None, None)
    assert "bundle" not in int8


def test_several_bundles_have_a_column(result: BenchResult) -> None:
    other = replace(result.rows[3], bundle="other")
    rows = bench_rows(replace(result, rows=(*result.rows, other)))
    assert [r["bundle"] for r in rows] == ["-", "mine", "mine", "mine", "mine", "other"]


def test_the_caption_says_reference_providers_interval_notes_and_warnings(
    result: BenchResult,
) -> None:
    caption = bench_caption(result).splitlines()
    assert caption[0] == "delta (points) and flips: compared with pytorch fp32 on the same images"
    assert "onnxruntime on CPU (fp32, int8)" in caption
    assert any(
        line.startswith("onnxruntime int8: 95 % confidence interval of delta -") for line in caption
    )
    assert caption[-2:] == ["a note", "warning: the machine is busy"]


def test_a_narrow_terminal_gets_two_tables(result: BenchResult) -> None:
    accuracy, speed, notes = bench_tables(result)
    assert list(accuracy[0]) == [
        "backend",
        "precision",
        "status",
        "top-1",
        "delta",
        "macro-F1",
        "flips",
    ]
    assert list(speed[0])[:4] == ["backend", "precision", "size", "p50 ms"]
    assert notes.splitlines()[-2:] == [
        "onnxruntime int8: 3.00x its fp32",
        "tensorrt: there is no | GPU",
    ]


def test_numbers_are_not_rounded(result: BenchResult) -> None:
    int8 = bench_numbers(result)[3]
    assert int8["top1"] == pytest.approx(697 / 700)
    assert int8["p50_ms"] == pytest.approx(0.3005)
    assert bench_numbers(result)[4]["p50_ms"] is None


def test_comparison(result: BenchResult) -> None:
    faster = replace(result, rows=(row("onnxruntime", "int8", 0.15, 3),))
    compared = compare_results(result, faster)
    rows = {r["backend"]: r for r in comparison_rows(compared) if r["precision"] == "int8"}
    assert rows["onnxruntime"]["A/B"] == "2.00x"
    assert rows["onnxruntime"]["delta"] == "+0.00"
    by_note = {r["backend"]: r["note"] for r in comparison_rows(compared)}
    assert by_note["tensorrt"] == "A: unavailable, there is no | GPU; B: no such row"
    numbers = {r["backend"]: r for r in comparison_numbers(compared)}
    assert numbers["tensorrt"]["status_a"] == "unavailable"
    assert numbers["tensorrt"]["status_b"] is None


def verification(lost: int, speed: float | None) -> Verification:
    logits = wrong(lost)
    a = evaluate(REFERENCE, LABELS, duplicate_of_train=np.arange(700) < 70)
    b = evaluate(logits, LABELS, duplicate_of_train=np.arange(700) < 70)
    agreement = compare(REFERENCE, logits, LABELS)
    return Verification(
        bundle="mine",
        split="public",
        dataset={"source": "fer2013.zip", "synthetic": False, "sha256": "1" * 64},
        environment={},
        reference=Side("pytorch", "pytorch", "fp32", "CPU eager", "w", "0" * 64, a),
        engine=Side("onnxruntime int8", "onnxruntime", "int8", "CPU", "m", "0" * 64, b),
        agreement=agreement,
        gate=judge(
            "int8", a, b, agreement, speedup=None if speed is None else Speedup(speed, "fp32")
        ),
        speedup_source=None if speed is None else "bench of then",
        notes=(),
        created="then",
    )


def test_verification_table() -> None:
    passed = verification(2, 3.0)
    rows = {r["score"]: r for r in verification_rows(passed)}
    assert rows["top-1"] == {
        "score": "top-1",
        "pytorch": "100.00 %",
        "onnxruntime int8": "99.71 %",
        "delta": "-0.29",
    }
    assert "top-1 without TRAIN duplicates (n 630)" in rows
    assert rows["recall disgust (n 100)"]["onnxruntime int8"] == "99.00 %"
    assert len(rows) == 7 + 7
    assert verification_numbers(passed)[0]["engine"] == pytest.approx(698 / 700)
    assert verification_title(passed) == "mine | fer2013.zip, public, n = 700 | CPU"
    caption = verification_caption(passed)
    assert "flips 2 of 700 labels (agreement 99.71 %): 2 right labels lost, 0 gained" in caption
    assert "speed: 3.00x the speed of fp32" in caption
    assert "bench of then" in caption
    assert caption.endswith("gate: passed")


def test_a_failed_verification_names_what_failed() -> None:
    caption = verification_caption(verification(50, None))
    assert "gate: FAILED" in caption
    assert "failed: top-1 100.00% -> 92.86%" in caption
    assert "speed not measured: run fer-edge bench" in caption


def test_a_figure_is_drawn(result: BenchResult, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert accuracy_against_latency(result, tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    svg = accuracy_against_latency(result, tmp_path / "a.svg").read_text()
    assert "<svg" in svg


def test_figures_that_cannot_be_drawn(
    result: BenchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="must end in"):
        accuracy_against_latency(result, tmp_path / "a.gif")
    with pytest.raises(UsageError, match="nothing to draw"):
        accuracy_against_latency(replace(result, rows=result.rows[-1:]), tmp_path / "a.png")

    def missing(module: str, extra: str) -> None:
        raise MissingExtraError(module, extra)

    monkeypatch.setattr(figures, "require", missing)
    with pytest.raises(MissingExtraError) as caught:
        accuracy_against_latency(result, tmp_path / "a.png")
    assert caught.value.fix == "pip install 'fer-edge[report]'"
