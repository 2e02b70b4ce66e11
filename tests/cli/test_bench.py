"""`fer-edge bench` and `fer-edge bench compare`: what is printed, saved, recorded and refused."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from fer_edge import cli
from fer_edge.bundle import Bundle
from fer_edge.cli import bench as module
from fer_edge.data import FerDataset
from fer_edge.data.readers_npz import npz_from_dataset
from fer_edge.errors import FerEdgeError, UsageError
from fer_edge.measure.energy import EnergyProtocol
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.measure.meters import Meter
from fer_edge.measure.result import BenchResult
from fer_edge.measure.throughput import ThroughputProtocol

SHORT = LatencyProtocol(
    warmup_s=0, warmup_queries=2, measure_s=0, min_queries=70, repeats=2, quick=True
)


@pytest.fixture
def source(small_dataset: FerDataset, tmp_path: Path) -> str:
    path = tmp_path / "small.npz"
    npz_from_dataset(small_dataset, path)
    return str(path)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, source: str, own_bundle: Bundle) -> object:
    """``run(*arguments)`` benches ``own_bundle`` on the small data set, in milliseconds."""
    monkeypatch.setattr(module, "_protocol", lambda quick, pace: replace(SHORT, pace_hz=pace))

    def invoke(*arguments: str) -> Result:
        words = [str(own_bundle.path), "--data", source, "--backend", "onnxruntime", *arguments]
        result = CliRunner().invoke(cli.group, ["bench", *words])
        if result.exception and not isinstance(result.exception, (SystemExit, FerEdgeError)):
            raise result.exception
        return result

    return invoke


def test_the_table_says_where_it_comes_from(run, own_bundle: Bundle) -> None:  # type: ignore[no-untyped-def]
    result = run()
    assert result.exit_code == 0
    out = result.stdout
    for words in (
        "small.npz, public, n = 42",
        "1 thread",
        "QUICK",
        "p50 ms",
        "images/s",
        "compared with pytorch fp32",
        "timed with 42 different images",
        "unavailable",
        "null",
        "int8",
    ):
        assert words in " ".join(out.split()), words
    (saved,) = own_bundle.path.parent.glob("bench-*.json")
    assert str(saved) in result.stderr.replace("\n", "")
    assert BenchResult.load(saved).rows[1].ns


def test_json_is_rows_and_environment(run) -> None:  # type: ignore[no-untyped-def]
    content = json.loads(run("--format", "json").stdout)
    assert content["environment"]["threads"] == 1
    int8 = content["rows"][-1]
    assert (int8["backend"], int8["precision"], int8["status"]) == ("onnxruntime", "int8", "ok")
    assert int8["flips"] == 0
    assert int8["p50_ms"] > 0
    assert int8["p99_ms"] is None
    assert "ns" not in int8


def test_csv_has_numbers(run) -> None:  # type: ignore[no-untyped-def]
    rows = list(csv.DictReader(io.StringIO(run("--format", "csv").stdout)))
    assert float(rows[-1]["p50_ms"]) > 0
    assert 0 <= float(rows[-1]["top1"]) <= 1
    assert rows[-1]["p99_ms"] == ""


def test_markdown(run) -> None:  # type: ignore[no-untyped-def]
    lines = run("--format", "markdown").stdout.splitlines()
    assert lines[0].startswith("**small.npz")
    assert "| backend | precision | status |" in lines[2]


def test_the_summary_is_kept_in_the_bundle_unless_told_not_to(  # type: ignore[no-untyped-def]
    run, own_bundle: Bundle
) -> None:
    run("--no-record")
    assert Bundle.open(own_bundle.path).find(path="bench.json") is None
    assert "recorded in" in run().stderr
    bundle = Bundle.open(own_bundle.path)
    kept = BenchResult.load(bundle.file(bundle.artifact(path="bench.json")))
    assert kept.rows[1].ns is None
    assert kept.rows[1].p50_ms is not None


def test_save_figure_limit_and_threads(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("matplotlib")
    saved, figure = tmp_path / "out" / "a.json", tmp_path / "a.png"
    result = run("--save", str(saved), "--figure", str(figure), "--limit", "9", "--threads", "2")
    assert result.exit_code == 0
    loaded = BenchResult.load(saved)
    assert loaded.dataset["n"] == 9
    assert loaded.environment["threads"] == 2
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_pace_is_in_the_title(run) -> None:  # type: ignore[no-untyped-def]
    result = run("--pace", "5000", "--precision", "int8")
    assert "paced at 5000 Hz" in " ".join(result.stdout.split())


def test_a_figure_that_cannot_be_is_refused_before_measuring(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    result = run("--figure", str(tmp_path / "a.txt"))
    assert isinstance(result.exception, UsageError)
    assert not list(tmp_path.glob("bench-*.json"))


def test_an_unknown_backend_is_refused_before_reading_images(run) -> None:  # type: ignore[no-untyped-def]
    result = run("--backend", "onnxruntim")
    assert isinstance(result.exception, UsageError)
    assert "onnxruntime" in str(result.exception.fix)


def test_the_protocol_of_the_options() -> None:
    assert module._protocol(False, None) == LatencyProtocol()
    assert module._protocol(True, None).quick
    assert module._protocol(False, 30.0).pace_hz == 30.0
    with pytest.raises(UsageError, match="rate"):
        module._protocol(False, -1.0)


def test_results_do_not_land_in_the_installed_package(
    own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = module._default_save([own_bundle])
    assert beside.parent == own_bundle.path.parent
    monkeypatch.setattr("fer_edge.pretrained._folder", lambda: own_bundle.path.parent)
    assert module._default_save([own_bundle]).parent == Path()


def test_compare_shows_both_sides(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    run("--save", str(a), "--no-record")
    run("--save", str(b), "--no-record", "--precision", "int8")
    table = CliRunner().invoke(cli.group, ["bench", "compare", str(a), str(b)])
    assert table.exit_code == 0
    text = " ".join(table.stdout.split())
    assert "p50 ms A" in text
    assert "B: no such row" in text
    assert "these are two runs" in text
    content = json.loads(
        CliRunner()
        .invoke(cli.group, ["bench", "compare", str(a), str(b), "--format", "json"])
        .stdout
    )
    (int8,) = [row for row in content["rows"] if row["precision"] == "int8"]
    assert int8["speedup"] == pytest.approx(int8["p50_ms_a"] / int8["p50_ms_b"])
    assert int8["delta_top1"] == 0


def test_compare_across_machines_is_loud(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    run("--save", str(a), "--no-record", "--precision", "int8")
    content = json.loads(a.read_text())
    content["environment"]["machine"]["host"] = "another"
    b.write_text(json.dumps(content))
    result = CliRunner().invoke(cli.group, ["bench", "compare", str(a), str(b), "--format", "csv"])
    assert "DIFFERENT MACHINES" in result.stderr
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert rows[-1]["speedup"] == ""


def test_compare_names_a_file_that_is_no_result(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    result = CliRunner().invoke(cli.group, ["bench", "compare", str(path), str(path)])
    assert isinstance(result.exception, UsageError)
    assert "x.json" in str(result.exception)


def test_help_of_both_ends_with_an_example() -> None:
    for words in (["bench", "--help"], ["bench", "compare", "--help"]):
        result = CliRunner().invoke(cli.group, words)
        assert result.exit_code == 0
        assert "Example:" in result.stdout
    assert "fer-edge bench compare" in result.stdout


def test_compare_needs_two_files() -> None:
    assert CliRunner().invoke(cli.group, ["bench", "compare"]).exit_code == 2


@pytest.mark.fer2013
def test_real_images_through_a_tiny_network(
    fer2013_source: Path, own_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_protocol", lambda quick, pace: SHORT)
    words = ["bench", str(own_bundle.path), "--data", str(fer2013_source), "--format", "json"]
    result = CliRunner().invoke(cli.group, [*words, "--backend", "onnxruntime"])
    assert result.exit_code == 0, result.exception
    content = json.loads(result.stdout)
    assert content["dataset"]["n"] == 3589
    assert content["dataset"]["different_images"] == 1024
    scores = content["rows"][1]["accuracy"]
    assert [score["n"] for score in scores["per_class"].values()] == [
        467,
        56,
        496,
        895,
        653,
        415,
        607,
    ]
    assert scores["n_without_duplicates"] == 3589 - 280
    assert np.sum(scores["confusion"]) == 3589


class _Meter(Meter):
    """Three joules a window."""

    name, parts = "fake", ("all",)

    def start(self) -> None: ...

    def stop(self) -> dict[str, float]:
        return {"all": 3.0}


@pytest.fixture
def more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Energy and throughput in hundredths of a second."""
    energy = EnergyProtocol(window_s=0.02, settle_s=0.0)
    monkeypatch.setattr("fer_edge.measure.energy.EnergyProtocol", lambda pace_hz: energy)
    monkeypatch.setattr(
        "fer_edge.measure.throughput.ThroughputProtocol",
        lambda **options: ThroughputProtocol(**{**options, "window_s": 0.02, "warmup_s": 0.0}),
    )


def test_energy_throughput_and_layers_have_tables_of_their_own(
    run, more: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("fer_edge.measure.more.find_meters", lambda: ([_Meter()], []))
    saved = tmp_path / "more.json"
    words = ("--energy", "--batch", "1,4", "--streams", "2", "--layers", "--precision", "int8")
    result = run(*words, "--save", str(saved), "--format", "markdown")
    assert result.exit_code == 0
    assert "is not measured" not in result.stdout
    for words in ("mJ/image", "above idle", "30 Hz", "back to back", "peak MiB", "share", "us |"):
        assert words in result.stdout, words
    row = BenchResult.load(saved).rows[-1]
    assert row.energy is not None
    assert [entry["pace_hz"] for entry in row.energy] == [None, 30.0]
    assert row.energy[0]["joules"] == 3.0
    assert row.throughput is not None
    assert [(e["batch"], e["streams"]) for e in row.throughput] == [(1, 2), (4, 2)]
    assert row.memory is not None
    assert row.memory["batch"] == 4
    assert row.memory["host_mib"] > row.memory["engine_mib"]
    assert row.layers is not None
    assert sum(layer["share"] for layer in row.layers) == pytest.approx(1)
    # The null engine is the floor of energy, too; it has no layers and no memory.
    null = BenchResult.load(saved).rows[0]
    assert null.energy
    assert null.throughput is None


def test_energy_that_cannot_be_measured_is_a_note(
    run, more: None, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("fer_edge.measure.more.find_meters", lambda: ([], ["no RAPL", "no NVML"]))
    content = json.loads(run("--energy", "--precision", "int8", "--format", "json").stdout)
    assert "energy is not measured: no RAPL; no NVML" in content["notes"]
    assert content["rows"][-1]["energy"] is None


@pytest.mark.parametrize("words", [("--batch", "0"), ("--streams", "2,x"), ("--batch", "1.5")])
def test_a_list_that_is_none_is_refused(run, words: tuple[str, str]) -> None:  # type: ignore[no-untyped-def]
    result = run(*words)
    assert isinstance(result.exception, UsageError)
    assert f"{words[0]} {words[1]} is not a list of numbers" in str(result.exception)
