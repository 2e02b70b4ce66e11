"""The plans of a bundle's graphs, timed on the device: with fakes whose times are set."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import fake_tensorrt
from fixtures_progress import Recorder

from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.build import device_plan, faster_memory
from fer_edge.build.device_plan import AddedPlan, contenders, fastest_plan
from fer_edge.build.options import GateOptions
from fer_edge.build.pipeline import build
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.usable import UsableEngine, WhyNot, usable_engine
from fer_edge.cli import main
from fer_edge.data.synthetic import synthetic_faces
from fer_edge.errors import NumericsError, UnavailableError
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.trt import builder
from fer_edge.trt.gpu import Gpu
from fer_edge.trt.sidecar import PlanSidecar, plan_name, sidecar_path
from fer_edge.trt.targets import TargetProfile, load_target

NANO = Gpu("Orin (nvgpu)", 87, "13.2", 8 << 30, True, False, 8, 918)
JP72 = "orin-jp72"
TRIALS = {"int8": 2e-4, "int8 all-int8": 6e-4, "fp16": 1e-6}
Times = dict[str, float]
faces = cache(synthetic_faces)


class Device:
    """A board whose plans take the set ``times`` in ms, and answer as FP32 does."""

    def __init__(self, times: Times) -> None:
        self.times = times
        self.gpu = NANO
        self.release = "10.16.2.10"
        self.opened: list[str] = []
        self.closed = 0
        self.wrong: set[str] = set()
        self.timed: list[str] = []


@pytest.fixture
def device(
    tiny_bundle: Bundle, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Times], Device]:
    golden, logits = tiny_bundle.golden()
    reference = dict(zip(map(bytes, golden), logits, strict=True))

    def make(times: Times) -> Device:
        board = Device(times)

        class Runs(TensorRTBackend):
            @classmethod
            def unavailable_reason(cls) -> str | None:
                return None

            @classmethod
            def _here(cls) -> tuple[str, int]:
                return board.release, board.gpu.sm

            def load(self) -> None:
                assert self.path is not None
                self.sidecar = PlanSidecar.read(self.path)
                self.provider = "fake"
                board.opened.append(f"{self.precision} {self.sidecar.variant}".strip())

            def close(self) -> None:
                board.closed += 1

            def infer(self, images: np.ndarray) -> np.ndarray:
                assert self.sidecar is not None
                wrong = f"{self.precision} {self.sidecar.variant}".strip() in board.wrong
                answers = np.stack([reference[bytes(image)] for image in images])
                return -answers if wrong else answers

        def time_backends(
            engines: Mapping[str, Any], images: np.ndarray, protocol: Any, **_: Any
        ) -> dict[str, LatencySamples]:
            # The rules of every latency: 1,024 different images, several repeats in turns.
            assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 1024
            assert protocol == LatencyProtocol.for_gate()
            board.timed = list(engines)
            times = {name: int(board.times[name] * 1e6) for name in engines}
            return {
                name: LatencySamples((np.array([ns], np.int64), np.array([ns + 10], np.int64)))
                for name, ns in times.items()
            }

        monkeypatch.setattr(TargetProfile, "why_not_here", lambda self: None)
        monkeypatch.setattr(builder, "import_tensorrt", lambda name: fake_tensorrt(board.release))
        monkeypatch.setattr(builder, "find_gpu", lambda: board.gpu)
        monkeypatch.setattr(faster_memory, "gpu_or_reason", lambda: (board.gpu, ""))
        monkeypatch.setattr("fer_edge.backends.tensorrt.gpu_or_reason", lambda: (board.gpu, ""))
        monkeypatch.setattr(device_plan, "backend_class", lambda name: Runs)
        monkeypatch.setattr(device_plan, "time_backends", time_backends)
        monkeypatch.setattr("fer_edge.data.synthetic.synthetic_faces", faces)
        board.kind = Runs  # type: ignore[attr-defined]
        return board

    return make


def with_graphs(bundle: Bundle, *graphs: str, **words: str) -> Bundle:
    """Add proven graphs: ``int8``, ``int8 all-int8``, ``int8 fp32-remainder``, ``fp16``.

    ``words`` are the contents by remainder, what the fake parser makes of them.
    """
    with BundleWriter(bundle.path, base=bundle) as writer:
        for graph in graphs:
            precision, _, variant = graph.partition(" ")
            target = "tensorrt" if precision == "int8" else ""
            remainder = "fp32" if variant.endswith("fp32-remainder") else "fp16"
            meta = {"remainder": remainder} if precision == "int8" else {}
            content = words.get(remainder, "int8") if precision == "int8" else "fp16"
            writer.add_bytes(
                f"{content} {variant}".encode(),
                f"model.{precision}{variant and '.'}{variant}.onnx",
                format="onnx",
                precision=precision,
                target=target,
                variant=variant,
                meta=meta,
            )
            kl = TRIALS[graph.removesuffix("fp32-remainder").strip("- ")]
            trial = {"graph": "x", "kl": kl, "kl_error": 0.0, "flips": 0.01, "n": 2048}
            gate = {"precision": precision, "target": target, "variant": variant, "passed": True}
            writer.add_gate({**gate, "choice": {"trial": trial}})
    return Bundle.open(bundle.path)


ALL = ("int8", "int8 all-int8", "fp16")


def taken(bundle: Path, board: Device, precision: str | None = None) -> str:
    """Return the plan that the runtime takes on the board."""
    found = usable_engine(Bundle.open(bundle), board.kind, precision)  # type: ignore[attr-defined]
    assert isinstance(found, UsableEngine), found
    assert found.artifact is not None
    return found.artifact.path


def plans(bundle: Path) -> list[str]:
    return sorted(path.name for path in bundle.glob("engines/*.plan"))


@pytest.mark.parametrize(
    ("times", "precision", "variant"),
    [
        ({"int8": 0.3, "int8 all-int8": 0.2, "fp16": 0.4}, "int8", "all-int8"),
        ({"int8": 0.2, "int8 all-int8": 0.3, "fp16": 0.4}, "int8", ""),
        ({"int8": 0.3, "int8 all-int8": 0.3, "fp16": 0.2}, "fp16", ""),
        ({"int8": 0.2, "int8 all-int8": 0.2, "fp16": 0.203}, "fp16", ""),
    ],
)
def test_the_fastest_plan_is_the_one_that_is_used(
    tiny_bundle: Bundle,
    device: Callable[[Times], Device],
    times: Times,
    precision: str,
    variant: str,
) -> None:
    bundle = with_graphs(tiny_bundle, *ALL)
    board = device(times)
    added = fastest_plan(bundle.path, load_target(JP72))
    assert board.timed == list(ALL)
    assert board.closed == len(ALL)
    assert added.precision == precision
    kind = f"{precision}-{variant}" if variant else precision
    assert added.name.endswith(f"-trt10.16.2.10-{kind}.plan")
    assert [f"engines/{name}" for name in plans(bundle.path)] == [added.name]
    assert taken(bundle.path, board) == added.name
    after = Bundle.open(bundle.path)
    assert after.unlisted() == []
    plan = after.artifact(path=added.name)
    assert (plan.precision, plan.variant) == (precision, variant)
    assert PlanSidecar.read(after.file(plan)).variant == variant
    parent = after.parent(plan)
    assert parent is not None
    assert (parent.precision, parent.variant) == (precision, variant)
    # The gates of the graphs are still there.
    assert {gate.key for gate in after.manifest.gates} >= {
        gate.key for gate in bundle.manifest.gates
    }
    choice = plan.meta["choice"]
    assert [row["graph"] for row in choice["candidates"] if row["kept"]] == [parent.path]
    assert {row["variant"]: row["kl"] for row in choice["candidates"][:2]} == {
        "": 2e-4,
        "all-int8": 6e-4,
    }
    assert [row["p50_ms"] for row in choice["candidates"]] == [
        pytest.approx(times[name] + 5e-6) for name in ALL
    ]
    assert choice["protocol"]["repeats"] == 11
    assert set(choice["providers"]) == set(ALL)
    assert {"machine", "power_mode", "clocks_before_mhz", "device_clocks_after_mhz"} < set(choice)
    assert "1.02" in choice["rule"]


def test_a_later_choice_replaces_the_earlier_one_on_this_board_alone(
    tiny_bundle: Bundle, device: Callable[[Times], Device]
) -> None:
    bundle = with_graphs(tiny_bundle, *ALL)
    board = device({"int8": 0.3, "int8 all-int8": 0.2, "fp16": 0.4})
    board.gpu = replace(NANO, multiprocessors=16, memory_bytes=32 << 30)
    other = fastest_plan(bundle.path, load_target(JP72)).name
    board.gpu = NANO
    first = fastest_plan(bundle.path, load_target(JP72)).name
    assert first != other
    board.times = {"int8": 0.3, "int8 all-int8": 0.5, "fp16": 0.2}
    second = fastest_plan(bundle.path, load_target(JP72)).name
    assert second.endswith("-fp16.plan")
    assert {f"engines/{name}" for name in plans(bundle.path)} == {other, second}
    found = usable_engine(Bundle.open(bundle.path), board.kind, "int8")  # type: ignore[attr-defined]
    # The other board's plan can be loaded here; that of this board is FP16.
    assert isinstance(found, UsableEngine)
    board.times = {"int8": 0.1, "int8 all-int8": 0.5, "fp16": 0.2}
    third = fastest_plan(bundle.path, load_target(JP72)).name
    assert third.endswith("-int8.plan")
    assert taken(bundle.path, board) == third
    assert Bundle.open(bundle.path).unlisted() == []


def test_the_plan_of_a_dla_stays(
    tiny_bundle: Bundle, device: Callable[[Times], Device], tmp_path: Path
) -> None:
    bundle = with_graphs(tiny_bundle, *ALL)
    device({"int8": 0.3, "int8 all-int8": 0.2, "fp16": 0.4})
    first = Bundle.open(bundle.path).path / fastest_plan(bundle.path, load_target(JP72)).name
    sidecar = replace(PlanSidecar.read(first), dla_core=0)
    plan = tmp_path / Path(plan_name(sidecar)).name
    plan.write_bytes(first.read_bytes())
    sidecar.write(plan)
    opened = Bundle.open(bundle.path)
    with BundleWriter(opened.path, base=opened) as writer:
        kinds = {"format": "plan", "precision": "int8", "target": sidecar.backend}
        added = writer.add_file(plan, f"engines/{plan.name}", **kinds)
        beside = sidecar_path(plan)
        writer.add_file(beside, f"engines/{beside.name}", format="json", parent=added)
    second = fastest_plan(bundle.path, load_target(JP72)).name
    assert set(plans(bundle.path)) == {plan.name, Path(second).name}


def test_int8_that_was_not_kept_says_so_and_can_be_built(
    tiny_bundle: Bundle, device: Callable[[Times], Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_graphs(tiny_bundle, *ALL)
    board = device({"int8": 0.3, "int8 all-int8": 0.3, "fp16": 0.2})
    fastest_plan(bundle.path, load_target(JP72))
    missing = usable_engine(Bundle.open(bundle.path), board.kind, "int8")  # type: ignore[attr-defined]
    assert isinstance(missing, WhyNot)
    assert missing.message.endswith("no int8 plan for tensorrt: its FP16 plan was chosen instead")
    assert str(missing.fix).endswith("--precision int8 --target tensorrt --no-speed")
    board.timed = []
    build(bundle.path, target=JP72, gate=GateOptions(speed=False))
    assert board.timed == []
    assert taken(bundle.path, board).endswith("-int8.plan")


@pytest.mark.parametrize("word", ["refused", "unbuildable"])
def test_where_fp16_scales_are_refused_the_other_remainder_takes_part(
    tiny_bundle: Bundle, device: Callable[[Times], Device], word: str
) -> None:
    graphs = ("int8", "int8 all-int8", "int8 fp32-remainder", "int8 all-int8-fp32-remainder")
    bundle = with_graphs(tiny_bundle, *graphs, "fp16", fp16=word, fp32="int8")
    board = device({"int8 fp32-remainder": 0.3, "int8 all-int8-fp32-remainder": 0.2, "fp16": 0.4})
    found = contenders(bundle, load_target(JP72))
    assert [[graph.variant for graph in each.graphs] for each in found] == [
        ["", "fp32-remainder"],
        ["all-int8", "all-int8-fp32-remainder"],
        [""],
    ]
    added = fastest_plan(bundle.path, load_target(JP72))
    assert board.timed == [*board.times]
    assert added.name.endswith("-int8-all-int8-fp32-remainder.plan")
    assert taken(bundle.path, board) == added.name


def test_what_is_wrong_or_cannot_be_built_has_no_part(
    tiny_bundle: Bundle, device: Callable[[Times], Device]
) -> None:
    bundle = with_graphs(tiny_bundle, *ALL, fp16="unbuildable")
    board = device({"fp16": 0.4})
    recorder = Recorder()
    added = fastest_plan(bundle.path, load_target(JP72), reporter=recorder)
    assert added.precision == "fp16"
    assert added.table[0].why.startswith("TensorRT has no kernel here for 'conv1 + relu' of model.")
    assert any(note.startswith("int8 has no part in the choice: ") for note in recorder.notes)
    board.wrong = {"fp16"}
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(UnavailableError, match="no kernel"):  # the first reason
        fastest_plan(bundle.path, load_target(JP72))
    assert (bundle.path / "manifest.json").read_bytes() == before


def test_a_plan_that_computes_something_else_is_not_kept(
    tiny_bundle: Bundle, device: Callable[[Times], Device]
) -> None:
    bundle = with_graphs(tiny_bundle, *ALL)
    board = device({"int8": 0.3, "int8 all-int8": 0.1, "fp16": 0.4})
    board.wrong = {"int8 all-int8"}
    added = fastest_plan(bundle.path, load_target(JP72))
    assert board.timed == ["int8", "fp16"]
    assert added.name.endswith("-int8.plan")
    assert "golden" in added.table[1].why or "self-test" in added.table[1].why
    assert added.table[1].p50_ms is None
    board.wrong = set(ALL)
    with pytest.raises(NumericsError):
        fastest_plan(bundle.path, load_target(JP72))


def test_without_a_choice_the_plan_is_built_as_before(
    tiny_bundle: Bundle, device: Callable[[Times], Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = with_graphs(tiny_bundle, "int8")
    board = device({})
    recorder = Recorder()
    added = fastest_plan(bundle.path, load_target(JP72), reporter=recorder)
    assert added == AddedPlan(added.name, "int8")
    assert not any("not chosen" in note for note in recorder.notes)
    bundle = with_graphs(Bundle.open(bundle.path), "int8 all-int8", "fp16")
    # A machine that only builds plans.
    with monkeypatch.context() as patch:
        no = classmethod(lambda cls: "no CUDA in this test")
        patch.setattr(board.kind, "unavailable_reason", no)  # type: ignore[attr-defined]
        added = fastest_plan(bundle.path, load_target(JP72), reporter=recorder)
    assert "the plan is not chosen by its speed: no CUDA in this test" in recorder.notes
    assert added.table == ()
    # Nothing is proven.
    bundle = Bundle.open(bundle.path)
    with BundleWriter(bundle.path, base=bundle) as writer:
        for gate in bundle.manifest.gates:
            writer.add_gate({**gate.as_read, "passed": None})
    added = fastest_plan(bundle.path, load_target(JP72), reporter=recorder)
    assert any("not proven: it was built with --no-verify" in note for note in recorder.notes)
    assert added.name.endswith("-int8.plan")
    assert board.timed == []


def test_the_command_prints_the_table(
    tiny_bundle: Bundle, device: Callable[[Times], Device], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = with_graphs(tiny_bundle, *ALL)
    device({"int8": 0.3, "int8 all-int8": 0.2, "fp16": 0.4})
    words = ["build", str(bundle.path), "--target", JP72, "--format"]
    for fmt in ("table", "json", "csv"):
        main([*words, fmt])
        out = capsys.readouterr().out
        if fmt == "json":
            rows = json.loads(out)["plans"]
            assert [row["kept"] for row in rows] == [False, True, False]
        else:
            assert "1.50 times the time of int8" in out
            assert ("0.2000 [0.2000, 0.2000]" in out) is (fmt == "table")
