"""The bench table: its rows, the row of an engine that cannot run, and what is timed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fer_edge.backends import backend_class
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.pytorch import PyTorchBackend
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.data import FerDataset
from fer_edge.errors import FerEdgeError, NumericsError, UsageError
from fer_edge.files import sha256_file
from fer_edge.measure.bench import candidates, labels, run_bench
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.measure.result import BenchResult
from fer_edge.progress import Reporter

SHORT = LatencyProtocol(
    warmup_s=0, warmup_queries=2, measure_s=0, min_queries=70, repeats=2, quick=True
)


def names(result: BenchResult) -> list[tuple[str, str, str]]:
    return [(row.backend, row.precision, row.status) for row in result.rows]


def bench(bundle: Bundle, dataset: FerDataset, **options: Any) -> BenchResult:
    return run_bench([bundle], dataset, protocol=SHORT, **options)


def test_the_rows_of_the_full_table(own_bundle: Bundle) -> None:
    rows = [(c.row.backend, c.row.precision) for c in candidates([own_bundle])]
    assert rows[:8] == [
        ("null", ""),
        ("pytorch", "fp32"),
        ("onnxruntime", "fp32"),
        ("onnxruntime", "fp16"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
        ("openvino", "fp16"),
        ("openvino", "int8"),
    ]
    assert {backend for backend, _ in rows[8:]} == {"litert", "tensorrt", "tensorrt-rtx"}


def test_the_floor_is_always_timed_and_the_rest_can_be_chosen(own_bundle: Bundle) -> None:
    chosen = candidates([own_bundle], ["onnxruntime"], ["int8"])
    assert [(c.row.backend, c.row.precision) for c in chosen] == [
        ("null", ""),
        ("onnxruntime", "int8"),
    ]


@pytest.mark.parametrize(
    ("backends", "precisions", "said"),
    [
        (["onnxruntim"], [], "unknown backend 'onnxruntim'"),
        ([], ["int4"], "unknown precision 'int4'"),
        (["pytorch"], ["int8"], "pytorch cannot run the precision int8"),
    ],
)
def test_rows_that_cannot_be_are_refused(
    own_bundle: Bundle, backends: list[str], precisions: list[str], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        candidates([own_bundle], backends, precisions)


def test_scores_and_times_of_every_engine(own_bundle: Bundle, small_dataset: FerDataset) -> None:
    stages: dict[str, tuple[int, int]] = {}

    class Last(Reporter):
        def progress(self, stage: str, done: int, total: int) -> None:
            stages[stage] = (done, total)

    got = bench(own_bundle, small_dataset, backends=["pytorch", "onnxruntime"], reporter=Last())
    assert names(got) == [
        ("null", "", "ok"),
        ("pytorch", "fp32", "ok"),
        ("onnxruntime", "fp32", "ok"),
        ("onnxruntime", "fp16", "unavailable"),
        ("onnxruntime", "int8", "ok"),
    ]
    null, reference, fp32, fp16, int8 = got.rows
    assert got.reference == "pytorch fp32"
    assert (null.top1, null.flips) == (None, None)
    assert reference.flips is None
    assert reference.note.startswith("reference")
    assert (fp32.flips, fp32.delta_top1, fp32.agreement, fp32.mcnemar_p) == (0, 0, 1.0, 1.0)
    assert "fer-edge build" in fp16.note
    assert fp16.p50_ms is None
    for row in (null, reference, fp32, int8):
        assert row.p50_ms is not None
        assert row.p90_ms is not None
        assert row.p99_ms is None, "70 queries are too few for a p99"
        assert row.ns is not None
        assert [len(repeat) for repeat in row.ns] == [70, 70]
    artifact = own_bundle.artifact(format="onnx", precision="int8")
    assert int8.artifact_sha256 == artifact.sha256
    assert int8.size_bytes == artifact.size
    assert int8.provider == "CPUExecutionProvider"
    assert int8.versions["onnxruntime"]
    assert int8.speedup == pytest.approx(fp32.p50_ms / int8.p50_ms)  # type: ignore[operator]
    assert fp32.speedup is None
    assert got.dataset["n"] == 42
    assert got.dataset["split"] == "public"
    assert got.environment["clocks_after_mhz"] is not None
    assert "timed with 42 different images, not 1,024" in got.notes
    assert stages["latency"] == (8, 8)
    assert stages["accuracy: onnxruntime int8"] == (42, 42)
    assert BenchResult.from_json(got.to_json()) == got
    json.dumps(got.to_dict(raw=False), allow_nan=False)


def test_the_very_object_that_is_scored_is_timed(
    own_bundle: Bundle, small_dataset: FerDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects: set[int] = set()
    shapes: set[tuple[int, ...]] = set()
    infer = OnnxRuntimeBackend.infer

    def seen(self: OnnxRuntimeBackend, images: np.ndarray) -> np.ndarray:
        objects.add(id(self))
        shapes.add(images.shape)
        return infer(self, images)

    monkeypatch.setattr(OnnxRuntimeBackend, "infer", seen)
    bench(own_bundle, small_dataset, backends=["onnxruntime"], precisions=["int8"])
    assert len(objects) == 1
    assert shapes == {(1, 1, 48, 48)}


def test_the_reference_need_not_be_a_row(own_bundle: Bundle, small_dataset: FerDataset) -> None:
    got = bench(own_bundle, small_dataset, backends=["onnxruntime"], precisions=["int8"])
    assert got.reference == "pytorch fp32"
    assert got.rows[1].flips == 0


def test_without_torch_the_fp32_graph_is_the_reference_and_it_is_said(
    own_bundle: Bundle, small_dataset: FerDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        PyTorchBackend, "unavailable_reason", classmethod(lambda cls: "torch is not installed")
    )
    got = bench(own_bundle, small_dataset, backends=["pytorch", "onnxruntime"])
    assert names(got)[1] == ("pytorch", "fp32", "unavailable")
    assert got.rows[1].note == "torch is not installed"
    assert got.reference == "onnxruntime fp32"
    assert got.rows[2].note.startswith("reference")
    assert any("not PyTorch: torch is not installed" in note for note in got.notes)
    only = bench(own_bundle, small_dataset, backends=["onnxruntime"], precisions=["int8"])
    assert only.reference == "onnxruntime fp32"
    assert only.rows[1].flips == 0


def test_a_checkpoint_that_does_not_load_is_a_row_with_its_reason(
    tiny_bundle: Bundle, small_dataset: FerDataset
) -> None:
    got = bench(tiny_bundle, small_dataset, backends=["pytorch", "onnxruntime"])
    pytorch = got.rows[1]
    assert pytorch.status == "failed"
    assert "checkpoint.safetensors" in pytorch.note
    assert got.reference == "onnxruntime fp32"
    assert any("SYNTHETIC" in note for note in got.notes)


def test_an_engine_that_breaks_is_a_row_and_the_others_go_on(
    own_bundle: Bundle, small_dataset: FerDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    infer = OnnxRuntimeBackend.infer

    def broken(self: OnnxRuntimeBackend, images: np.ndarray) -> np.ndarray:
        logits = infer(self, images)
        if self.precision == "int8":
            logits[0, 0] = np.nan
        return logits

    monkeypatch.setattr(OnnxRuntimeBackend, "infer", broken)
    got = bench(own_bundle, small_dataset, backends=["onnxruntime"], precisions=["fp32", "int8"])
    assert names(got) == [
        ("null", "", "ok"),
        ("onnxruntime", "fp32", "ok"),
        ("onnxruntime", "int8", "failed"),
    ]
    assert "not finite for 42 of 42 images" in got.rows[2].note
    assert got.rows[2].p50_ms is None


@pytest.mark.parametrize("error", [RuntimeError("boom\nat line 3"), NumericsError("boom")])
def test_an_engine_that_does_not_load_is_a_row(
    own_bundle: Bundle,
    small_dataset: FerDataset,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    load = OnnxRuntimeBackend.load

    def refuse(self: OnnxRuntimeBackend) -> None:
        if self.precision == "int8":
            raise error
        load(self)

    monkeypatch.setattr(OnnxRuntimeBackend, "load", refuse)
    got = bench(own_bundle, small_dataset, backends=["onnxruntime"], precisions=["fp32", "int8"])
    assert got.rows[2].status == "failed"
    assert "boom" in got.rows[2].note
    assert "\n" not in got.rows[2].note


def test_a_backend_that_this_machine_lacks_is_one_row(
    own_bundle: Bundle, small_dataset: FerDataset
) -> None:
    for name in ("tensorrt", "openvino"):
        try:
            if backend_class(name).unavailable_reason() is None:
                continue
        except FerEdgeError:
            pass
        got = bench(own_bundle, small_dataset, backends=[name])
        assert len(got.rows) == 2
        assert got.rows[1].status == "unavailable"
        assert got.rows[1].note


def test_an_engine_of_this_device_has_size_and_digest_too(
    own_bundle: Bundle,
    small_dataset: FerDataset,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    engine = tmp_path / "engine.onnx"
    engine.write_bytes(own_bundle.file(own_bundle.artifact(precision="int8")).read_bytes())

    def from_cache(cls: Any, bundle: Bundle, precision: str, *, threads: int = 1) -> Any:
        return cls(engine, precision=precision, threads=threads)

    monkeypatch.setattr(OnnxRuntimeBackend, "from_bundle", classmethod(from_cache))
    got = bench(own_bundle, small_dataset, backends=["onnxruntime"], precisions=["int8"])
    assert got.rows[1].artifact == "engine.onnx"
    assert got.rows[1].size_bytes == engine.stat().st_size
    assert got.rows[1].artifact_sha256 == sha256_file(engine)


def test_a_limit_is_said(own_bundle: Bundle, small_dataset: FerDataset) -> None:
    got = bench(own_bundle, small_dataset, backends=["onnxruntime"], limit=10)
    assert got.dataset["n"] == 10
    assert "accuracy on 10 of the 42 images of this split" in got.notes


def test_two_bundles_have_rows_of_their_own(
    own_bundle: Bundle, small_dataset: FerDataset, bundle_maker: Callable[..., Bundle]
) -> None:
    other = bundle_maker("other", seed=3)
    with BundleWriter(own_bundle.path.parent / "twin", base=own_bundle):
        pass
    twin = Bundle.open(own_bundle.path.parent / "twin")
    assert labels([own_bundle, other]) == ["small", "other"]
    assert labels([own_bundle, twin]) == [str(own_bundle.path), str(twin.path)]
    result = run_bench(
        [own_bundle, twin],
        small_dataset,
        backends=["onnxruntime"],
        precisions=["fp32", "int8"],
        protocol=SHORT,
    )
    assert [row.bundle for row in result.rows] == [
        "",
        *[str(own_bundle.path)] * 2,
        *[str(twin.path)] * 2,
    ]
    assert all(row.speedup is not None for row in result.rows if row.precision == "int8")


def test_no_bundle_at_all(small_dataset: FerDataset) -> None:
    with pytest.raises(UsageError, match="no bundle"):
        run_bench([], small_dataset)
