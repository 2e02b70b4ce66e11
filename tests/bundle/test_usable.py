"""Which engine of a bundle is used: one rule, one text, and fixes that the command line takes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from usable_cases import HERE, Case, cases, make_bundle

from fer_edge import cli, cpu
from fer_edge.backends import BACKENDS, backend_class
from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.bundle import MANIFEST, Bundle, BundleWriter
from fer_edge.bundle.usable import UsableEngine, WhyNot, usable_engine
from fer_edge.classifier import Classifier
from fer_edge.cli import main
from fer_edge.cli.shared.subjects import Subject
from fer_edge.data import load
from fer_edge.deploy.triton import triton_from_bundle
from fer_edge.errors import (
    EngineMismatchError,
    IntegrityError,
    MissingExtraError,
    UsageError,
    require,
)
from fer_edge.measure.verification import verify_bundle
from fer_edge.pretrained import packaged_name, pretrained_path
from fer_edge.records import to_dict
from fer_edge.trt.targets import load_target

FAILED = (("int8", "onnxruntime", False), ("fp32", "", False))


@pytest.fixture(autouse=True)
def orin(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has TensorRT 10.3.0 and a GPU of compute capability 8.7."""
    monkeypatch.setattr(TensorRTBackend, "_here", classmethod(lambda cls: HERE))


def asked(path: Path, case: Case) -> UsableEngine | WhyNot:
    bundle = make_bundle(path, case)
    return usable_engine(bundle, backend_class(case.backend), case.precision)


def engine(path: Path, case: Case) -> UsableEngine:
    found = asked(path, case)
    assert isinstance(found, UsableEngine), found
    return found


def why_not(path: Path, case: Case) -> WhyNot:
    found = asked(path, case)
    assert isinstance(found, WhyNot), found
    return found


@pytest.mark.parametrize(
    ("case", "name"),
    [
        (Case("onnxruntime"), "model.fp32.onnx"),
        (Case("openvino", graphs=(("fp32", ""), ("fp16", ""))), "model.fp16.onnx"),
        (
            Case("openvino", graphs=(("fp32", ""), ("int8", "openvino"))),
            "model.int8.openvino.onnx",
        ),
        # An INT8 graph of another placement is not taken.
        (Case("openvino", graphs=(("fp32", ""), ("int8", "onnxruntime"))), "model.fp32.onnx"),
        # A gate of another placement says nothing; one without a verdict has not failed.
        (
            Case(
                "openvino",
                graphs=(("fp32", ""), ("int8", "openvino")),
                gates=(("int8", "onnxruntime", False), ("int8", "openvino", None)),
            ),
            "model.int8.openvino.onnx",
        ),
        (
            Case(
                "openvino",
                graphs=(("fp32", ""), ("int8", "openvino")),
                gates=(("int8", "openvino", False),),
            ),
            "model.fp32.onnx",
        ),
        # What is asked for by name is used whatever its gate says.
        (
            Case(
                "openvino",
                "int8",
                graphs=(("fp32", ""), ("int8", "openvino")),
                gates=(("int8", "openvino", False),),
            ),
            "model.int8.openvino.onnx",
        ),
        # The checkpoint is the reference: the FP32 graph's gate does not judge it.
        (
            Case("pytorch", gates=(("fp32", "", False),), checkpoint=True),
            "checkpoint.safetensors",
        ),
        # The plan of this device, and an FP16 plan of this device before an INT8 plan of another.
        (
            Case("tensorrt", plans=(("int8", "10.3.0", 90), ("int8", "10.3.0", 87))),
            "engines/sm87-trt10.3.0-int8.plan",
        ),
        (
            Case("tensorrt", plans=(("int8", "10.3.0", 90), ("fp16", "10.3.0", 87))),
            "engines/sm87-trt10.3.0-fp16.plan",
        ),
    ],
)
def test_the_engine(tmp_path: Path, case: Case, name: str) -> None:
    found = engine(tmp_path / "b", case)
    assert found.artifact is not None
    assert found.artifact.path == name
    assert found.path == tmp_path / "b" / name
    assert found.backend == case.backend
    assert found.precision == (found.artifact.precision or "fp32")


def test_the_plan_that_was_tuned_for_this_board_is_preferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AGX Orin, NX and Nano have one compute capability, and each may have built a plan."""
    plans = (("int8", "10.3.0", 87), ("int8", "10.3.0.26", 87))
    bundle = make_bundle(tmp_path, Case("tensorrt", plans=plans))
    sizes = {"sm87-trt10.3.0-int8.plan": 16, "sm87-trt10.3.0.26-int8.plan": 8}
    for here in (8, 16, 4):
        monkeypatch.setattr(
            TensorRTBackend,
            "differs",
            classmethod(lambda cls, path, here=here: "" if sizes[path.name] == here else "other"),
        )
        found = usable_engine(bundle, TensorRTBackend)
        assert isinstance(found, UsableEngine)
        assert found.path is not None
        # Where none was built on this board, the first is taken: it loads.
        assert sizes[found.path.name] == (here if here != 4 else 16)


def test_tensorrt_rtx_obeys_the_gate_of_the_placement(tmp_path: Path) -> None:
    case = Case(
        "tensorrt-rtx",
        graphs=(("fp32", ""), ("int8", "tensorrt")),
        gates=(("int8", "tensorrt", False),),
    )
    assert "no fp32 plan for tensorrt-rtx (int8 failed the gate)" in why_not(tmp_path, case).message


BOTH = (("", "saturation-safe", True), ("full", "full", True))
WITHOUT, WITH = frozenset({"avx2"}), frozenset({"avx2", "avx512_vnni"})


def as_on(monkeypatch: pytest.MonkeyPatch, features: frozenset[str]) -> None:
    """Let the rule see a CPU with these features."""
    known = cpu.fitting_weights
    monkeypatch.setattr(
        "fer_edge.bundle.usable.fitting_weights",
        lambda given=None: known(features if given is None else given),
    )


@pytest.mark.parametrize(
    ("features", "variants", "name", "why"),
    [
        (WITHOUT, BOTH, "model.int8.onnxruntime.onnx", "has no VNNI and no AMX"),
        (WITH, BOTH, "model.int8.onnxruntime.full.onnx", "has avx512_vnni"),
        (frozenset({"avx2", "amx_int8"}), BOTH, "model.int8.onnxruntime.full.onnx", "amx_int8"),
        (frozenset({"asimd"}), BOTH, "model.int8.onnxruntime.full.onnx", "has asimd"),
        (frozenset(), BOTH, "model.int8.onnxruntime.onnx", "are not known"),
        # What failed its gate is not taken, whatever fits; then there is no choice left to explain.
        (WITH, (BOTH[0], ("full", "full", False)), "model.int8.onnxruntime.onnx", ""),
        (
            WITHOUT,
            (("", "saturation-safe", False), BOTH[1]),
            "model.int8.onnxruntime.full.onnx",
            "",
        ),
        # A bundle of an earlier version has one graph.
        (WITH, BOTH[:1], "model.int8.onnxruntime.onnx", ""),
        (WITHOUT, (("", "full", True),), "model.int8.onnxruntime.onnx", ""),
    ],
)
def test_the_weights_that_fit_the_cpu(
    features: frozenset[str],
    variants: Any,
    name: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    as_on(monkeypatch, features)
    case = Case("onnxruntime", variants=variants)
    found = engine(tmp_path / "b", case)
    assert found.artifact is not None
    assert found.artifact.path == name
    assert why in found.why
    assert bool(why) == bool(found.why)
    # Another machine may be any machine.
    elsewhere = usable_engine(Bundle.open(tmp_path / "b"), backend_class("onnxruntime"), here=False)
    assert isinstance(elsewhere, UsableEngine)
    assert elsewhere.artifact is not None
    assert elsewhere.artifact.weights == "saturation-safe" or len(variants) == 1 or not why


def test_inspect_says_which_weights_are_taken_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bundle(tmp_path / "b", Case("onnxruntime", variants=BOTH))
    for features, text in (
        (WITHOUT, "model.int8.onnxruntime.onnx with saturation-safe weights"),
        (WITH, "model.int8.onnxruntime.full.onnx with full weights"),
    ):
        as_on(monkeypatch, features)
        main(["inspect", str(tmp_path / "b")])
        shown = " ".join(capsys.readouterr().out.split())
        assert f"INT8 here {text}" in shown
        assert "gate int8 onnxruntime full passed" in shown


def test_a_gate_judges_its_own_variant_alone(tmp_path: Path) -> None:
    variants = (("", "", True), ("int8", "", False))
    bundle = make_bundle(tmp_path / "b", Case("tensorrt", variants=variants))
    assert [graph.variant for graph in bundle.graphs("int8", "tensorrt")] == ["", "int8"]
    gates = {graph.variant: bundle.gate_of(graph) for graph in bundle.graphs("int8", "tensorrt")}
    assert {name: gate.passed for name, gate in gates.items() if gate} == {"": True, "int8": False}
    with BundleWriter(bundle.path, bundle) as writer:
        writer.remove("model.int8.tensorrt.int8.onnx")
    left = Bundle.open(bundle.path)
    assert [gate.key for gate in left.manifest.gates] == [("int8", "tensorrt", "")]


def test_a_manifest_without_variants_has_the_bytes_it_had(tmp_path: Path) -> None:
    case = Case("onnxruntime", graphs=(("fp32", ""), ("int8", "onnxruntime")))
    bundle = make_bundle(tmp_path / "b", case)
    assert b"variant" not in (bundle.path / MANIFEST).read_bytes()
    for shipped in (pretrained_path("votes"), pretrained_path("fer2013")):
        before = (shipped / MANIFEST).read_bytes()
        assert Bundle.open(shipped).manifest.to_bytes() == before


def test_the_null_backend_needs_no_file(tiny_bundle: Bundle) -> None:
    found = usable_engine(tiny_bundle, backend_class("null"))
    assert found == UsableEngine("null", "fp32", "")


# --- why there is none -----------------------------------------------------------------------


def test_every_gate_failed_is_one_error_everywhere(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        for precision, target, passed in FAILED:
            writer.add_gate({"precision": precision, "target": target, "passed": passed})
    bundle = Bundle.open(tiny_bundle.path)
    expected = usable_engine(bundle, backend_class("onnxruntime"))
    assert isinstance(expected, WhyNot)
    assert expected.message == (
        f"every engine of {bundle.path} for onnxruntime failed its gate: int8, fp32"
    )
    assert expected.fix == "to use one anyway, name its precision: --precision fp32"
    askers: list[Callable[[], Any]] = [
        lambda: Classifier(bundle),
        lambda: verify_bundle(bundle, load("synthetic:70")),
        lambda: Subject("b", None, bundle, {}).engine(None, None, 1),
        lambda: triton_from_bundle(bundle, tmp_path / "triton"),
    ]
    for ask in askers:
        with pytest.raises(UsageError) as caught:
            ask()
        assert (str(caught.value), caught.value.fix) == (expected.message, expected.fix)
    with Classifier(bundle, precision="fp32") as classifier:
        assert classifier.precision == "fp32"
    assert not (tmp_path / "triton").exists()


def test_the_plan_that_is_missing_is_the_best_one(tmp_path: Path) -> None:
    graphs = (("fp32", ""), ("fp16", ""), ("int8", "tensorrt"))
    found = why_not(tmp_path / "a", Case("tensorrt", graphs=graphs))
    assert found.message == f"{tmp_path / 'a'} has no int8 plan for tensorrt"
    assert found.fix == f"fer-edge build {tmp_path / 'a'} --precision int8 --target tensorrt"
    # Where INT8 failed its gate, it is the next one.
    failed = (("int8", "tensorrt", False),)
    found = why_not(tmp_path / "b", Case("tensorrt", graphs=graphs, gates=failed))
    assert "no fp16 plan for tensorrt (int8 failed the gate)" in found.message
    assert "--precision fp16" in str(found.fix)


def test_a_plan_of_another_device_is_named(tmp_path: Path) -> None:
    found = why_not(tmp_path, Case("tensorrt", plans=(("int8", "10.13.3", 90),)))
    assert isinstance(found.error, EngineMismatchError)
    assert "sm90-trt10.13.3-int8.plan was built with TensorRT 10.13.3 for sm_90" in found.message
    assert found.fix == f"fer-edge build {tmp_path} --precision int8 --target tensorrt"


def test_without_a_device_what_is_missing_here_is_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(cls: type[TensorRTBackend]) -> Any:
        require("no_such_tensorrt", "tensorrt")

    monkeypatch.setattr(TensorRTBackend, "_here", classmethod(missing))
    found = why_not(tmp_path / "a", Case("tensorrt", plans=(("int8", "10.3.0", 87),)))
    assert isinstance(found.error, MissingExtraError)
    # Without a plan the missing plan is the reason: no library is asked.
    found = why_not(tmp_path / "b", Case("tensorrt"))
    assert "has no fp32 plan for tensorrt" in found.message


def test_elsewhere_a_plan_of_any_device_counts(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, Case("tensorrt", plans=(("int8", "10.13.3", 90),)))
    found = usable_engine(bundle, TensorRTBackend, here=False)
    assert isinstance(found, UsableEngine)
    assert found.precision == "int8"


def test_a_plan_without_its_json_is_damage(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, Case("tensorrt", plans=(("int8", "10.3.0", 87),)))
    (tmp_path / "engines" / "sm87-trt10.3.0-int8.json").unlink()
    with pytest.raises(IntegrityError, match=r"sm87-trt10\.3\.0-int8\.json"):
        usable_engine(bundle, TensorRTBackend)


# --- the packaged bundle, and the fixes ------------------------------------------------------


def test_the_packaged_bundle_claims_nothing_that_it_lacks() -> None:
    bundle = Bundle.open(pretrained_path("fer2013"))
    assert "use" not in to_dict(bundle.manifest.model)
    for gate in bundle.manifest.gates:
        target = gate.target or "onnxruntime"
        assert bundle.graph(gate.precision, target), gate
    used = {name: usable_engine(bundle, backend_class(name)) for name in BACKENDS}
    names = {
        name: found.artifact.path
        for name, found in used.items()
        if isinstance(found, UsableEngine) and found.artifact
    }
    assert names == {"onnxruntime": "model.int8.onnxruntime.onnx", "openvino": "model.fp16.onnx"}


def test_the_packaged_bundles_missing_plan_is_built_by_the_command_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="has no int8 plan for tensorrt") as caught:
        Classifier(backend="tensorrt")
    fix, path = str(caught.value.fix), pretrained_path()
    plan = "--precision int8 --target tensorrt"
    assert fix == f"fer-edge build {packaged_name(path)} -o {path.name} {plan}"
    monkeypatch.chdir(tmp_path)
    # As on an Orin that cannot build: everything up to TensorRT's own work is done.
    profile = load_target("orin-jp62")
    monkeypatch.setattr("fer_edge.build.target.load_target", lambda name: profile)
    monkeypatch.setattr(type(profile), "why_not_here", lambda self: "no device in this test")
    main(shlex.split(fix)[1:])
    assert Bundle.open(tmp_path / path.name).manifest.name == path.name


def test_a_fix_is_a_command_that_the_command_line_accepts(tmp_path: Path) -> None:
    fixes = {}
    more = [replace(case, backend="onnxruntime") for case in cases() if case.backend == "openvino"]
    for number, case in enumerate([*cases(), *more]):
        found = asked(tmp_path / f"b {number}", case)
        if isinstance(found, WhyNot):
            fixes[str(found.fix)] = found
    commands = [fix for fix in fixes if fix.startswith("fer-edge ")]
    words = [fix for fix in fixes if not fix.startswith("fer-edge ")]
    assert commands
    assert all("--precision" in fix or fix.startswith("build from the run") for fix in words)
    build = cli.group.get_command(None, "build")  # type: ignore[arg-type]
    assert build is not None
    for fix in commands:
        program, name, *rest = shlex.split(fix)
        assert (program, name) == ("fer-edge", "build")
        parameters = build.make_context("build", rest).params
        assert (Path(parameters["source"]) / MANIFEST).is_file(), fix


def test_a_command_prints_the_reason_and_the_fix(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b", Case("onnxruntime", gates=(("fp32", "", False),)))
    result = CliRunner().invoke(cli.group, ["predict", "--bundle", str(bundle.path), "x.png"])
    assert isinstance(result.exception, UsageError)
    assert "failed its gate: fp32" in str(result.exception)
