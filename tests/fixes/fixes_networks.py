"""Advice about networks, their records and their engines, and about bundles that change."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import onnx
import torch
from fixes_commands import QUICK, RUNS, unfinished
from fixes_graphs import changed, lab_ranges, read
from fixes_lab import DATA, TINY, Lab, case, heavy
from fixtures_bundle import bundle_of_classes, golden_images
from onnx import helper, numpy_helper

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.openvino import OpenVINOBackend
from fer_edge.backends.selftest import judge_self_test
from fer_edge.build.foreign import open_graph
from fer_edge.build.qat import qat_setup
from fer_edge.build.steps import _tuned_ranges
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.swap import _old, settled
from fer_edge.convert.checkpoint import weights_from_bundle
from fer_edge.convert.ending import end_in_logits
from fer_edge.convert.export import _compare
from fer_edge.convert.golden import golden_images as golden
from fer_edge.convert.graph import Graph, metadata, read_graph
from fer_edge.convert.network import data_of_graph, network_from_graph, preprocessing_of
from fer_edge.convert.onnx_file import OnnxFile, outputs_of
from fer_edge.data.calibration import CalibrationRecipe, select_calibration
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import UsageError
from fer_edge.measure.bench import run_bench
from fer_edge.measure.gate import GateCheck, GateResult
from fer_edge.models import build_model
from fer_edge.models.spec import ModelSpec
from fer_edge.models.temperature import logit_layer
from fer_edge.models.weights import load_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.quantize.int8 import int8_from_onnx
from fer_edge.quantize.ranges import ranges_from_onnx
from fer_edge.runs.find import A_BUNDLE, find
from fer_edge.runs.folder import RunFolder
from fer_edge.training.session import Session
from fer_edge.training.state import load_state, save_state
from fer_edge.training.teachers import find_teachers


def raises(error: Exception | None) -> None:
    assert error is not None
    raise error


# --- graphs ---


@case
def outputs_of_graphs(lab: Lab) -> None:
    classes = ("happy", "sad")
    lab.refused(lambda: outputs_of(("happy", "happiness", "sad"), classes, "--labels"))
    lab.works(lambda: outputs_of(("happy", "", "sad"), classes, "--labels"))
    lab.refused(lambda: outputs_of(("happy", "sad"), (*classes, "fear"), "--labels"))
    lab.works(lambda: outputs_of(("fear", "sad", "happy"), (*classes, "fear"), "--labels"))
    clipped = onnx.load(lab.onnx)  # what computes with integers keeps them as its input
    clipped.graph.node[0].input[0] = "clipped"
    clipped.graph.node.insert(0, helper.make_node("Clip", ["images"], ["clipped"]))
    path = lab.file("clipped.onnx", clipped.SerializeToString())
    pixels = open_graph(OnnxFile.from_text(path)).with_classes(None)
    out = lab.folder() / "graph.onnx"
    lab.refused(lambda: pixels.write(out, pixels=False))
    lab.works(lambda: pixels.write(out))
    large = lab.folder() / "large.onnx"
    with large.open("wb") as file:
        file.truncate((1 << 31) + 1)
    lab.refused(lambda: read(large))
    lab.works(lambda: read(lab.onnx))


@case
def metadata_of_graphs(lab: Lab) -> None:
    def noted(name: str, value: str) -> Graph:
        def note(model: Any) -> None:
            entry = model.metadata_props.add()
            entry.key, entry.value = f"fer_edge.{name}", value

        return read_graph(changed(lab, note))

    good = changed(lab, lambda model: None)
    labels = "angry,disgust,fear,happy,sad,surprise,neutral"
    named = noted("labels", '["happy", 3]')
    lab.refused(lambda: data_of_graph(named))
    lab.works(lambda: read(named.path, labels=labels))
    scaled = noted("preprocessing", '{"mean": 0.5}')
    lab.refused(lambda: preprocessing_of(metadata(scaled.model), scaled.path))
    lab.works(lambda: read(scaled.path, mean="0.5077", std="0.255"))
    six = read_graph(lab.file("six.onnx", lab.net.onnx_bytes(uint8=False, classes=6)))
    lab.refused(lambda: network_from_graph(six))
    lab.works(lambda: read(six.path, labels="a,b,c,d,e,f"))
    int8 = lab.folder() / "int8.onnx"
    int8_from_onnx(lab.onnx, int8, lab_ranges(lab), "onnxruntime")
    lab.refused(lambda: network_from_graph(read_graph(int8)))
    lab.works(lambda: network_from_graph(read_graph(lab.onnx)))
    model = onnx.load(good)
    model.graph.node[-1].output[0] = "scores"
    model.graph.node.append(helper.make_node("Softmax", ["scores"], ["logits"], axis=0))
    lab.refused(lambda: end_in_logits(model, "model.onnx"))
    lab.works(lambda: end_in_logits(onnx.load(good), "model.onnx"))
    lab.works(lambda: read(good))


@case
def graphs_to_quantise(lab: Lab) -> None:
    faces = lab.faces
    chosen = select_calibration(faces, CalibrationRecipe("few", count=32))
    old = onnx.load(lab.onnx)
    old.opset_import[0].version = 11
    path = lab.file("old.onnx", old.SerializeToString())
    ranges = lab_ranges(lab)
    out = lab.folder() / "int8.onnx"
    of_old = replace(ranges, graph_sha256=read_graph(path).sha256)
    lab.refused(lambda: int8_from_onnx(path, out, of_old, "onnxruntime"))
    lab.works(lambda: int8_from_onnx(lab.onnx, out, ranges, "onnxruntime"))
    broken = onnx.load(lab.onnx)
    bias = next(each for each in broken.graph.initializer if each.name == "bias")
    bias.CopyFrom(numpy_helper.from_array(np.full(24, np.nan, np.float32), "bias"))
    nans = lab.file("nan.onnx", broken.SerializeToString())
    lab.refused(lambda: ranges_from_onnx(nans, faces, chosen, cache=False))
    lab.works(lambda: lab_ranges(lab))
    tuned = SimpleNamespace(ranges={})
    lab.refused(lambda: _tuned_ranges(read_graph(lab.onnx), faces, chosen, tuned))  # type: ignore[arg-type]
    for method in ("minmax", "entropy", "percentile"):
        lab.works(
            lambda method=method: ranges_from_onnx(
                lab.onnx, faces, chosen, method=method, cache=False
            )
        )
    floats = changed(lab, lambda model: None)
    of_floats = replace(ranges, graph_sha256=read_graph(floats).sha256)
    lab.refused(lambda: qat_setup(floats, of_floats, "onnxruntime"))
    own = lab.built.file(lab.built.artifact(format="onnx", precision="fp32"))
    of_own = ranges_from_onnx(own, faces, chosen, cache=False)
    lab.works(lambda: qat_setup(own, of_own, "onnxruntime"))


# --- networks ---


@case
def networks(lab: Lab) -> None:
    weights = load_weights(lab.trained / "model.safetensors")
    good = build_model(weights.spec).eval()
    lab.refused(lambda: logit_layer(torch.nn.Sequential(good, torch.nn.Softmax(1)), weights))
    lab.works(lambda: logit_layer(good, weights))
    cut = lab.file("cut.safetensors", (lab.trained / "model.safetensors").read_bytes()[:-100])
    lab.refused(lambda: load_weights(cut))
    lab.works(lambda: load_weights(lab.trained / "model.safetensors"))
    graph = shutil.copyfile(lab.onnx, lab.folder() / "model.onnx")
    logits = lab.net.logits(golden())
    other = shutil.copyfile(lab.onnx, lab.folder() / "other.onnx")
    lab.refused(lambda: _compare(other, logits + 1, Preprocessing()))
    lab.works(lambda: _compare(graph, logits, Preprocessing()))
    with mock.patch("fer_edge.models.vgg.hf_hub_download", side_effect=OSError("offline")):
        lab.refused(lambda: build_model(ModelSpec("vgg19", {"pretrained": True})))
    with torch.device("meta"):
        lab.works(lambda: build_model(ModelSpec("vgg19", {"pretrained": False})))
    foreign, _ = bundle_of_classes(lab.folder() / "own", ("cat", "dog"))
    out = lab.folder() / "model.safetensors"
    images = lab.faces.images[:64]
    lab.refused(lambda: weights_from_bundle(foreign, images, out))
    lab.works(lambda: weights_from_bundle(lab.built, images, out))
    spoilt = SimpleNamespace(
        path="spoilt",
        manifest=lab.built.manifest,
        preprocessing=lab.built.preprocessing,
        find=lambda **_: None,
        artifact=lambda **_: None,
        file=lambda _: lab.onnx,
    )
    lab.refused(lambda: weights_from_bundle(spoilt, images, out))  # type: ignore[arg-type]
    lab.works(lambda: weights_from_bundle(lab.built, images, out))
    lab.refused(["explain", foreign.path, "--image", lab.face, "-o", lab.folder()])
    lab.works(["explain", lab.trained, "--image", lab.face, "-o", lab.folder()])
    plot = ("plot", "predictions", lab.trained, "-o", lab.folder() / "p.png", "--count", "2")
    with mock.patch("fer_edge.measure.evaluation.worst_rows", return_value=[]):
        lab.refused([*plot, "--mistakes"])
    lab.works([*plot])
    many = RUNS / "many"
    shutil.copytree(lab.trained, many / "mine")
    shutil.copytree(lab.trained, many / "yours")
    lab.refused(lambda: find_teachers(["many"], RUNS, lab.faces))
    lab.works(lambda: find_teachers(["mine"], RUNS, lab.faces))
    shutil.rmtree(many)
    assert lab.built
    with mock.patch("fer_edge.runs.find._packaged", side_effect=UsageError("none is packaged")):
        fix = lab.refused(lambda: find(None, RUNS, A_BUNDLE))
    if fix.startswith("name yours: "):
        lab.works(lambda: find(fix.removeprefix("name yours: "), RUNS, A_BUNDLE))
    else:
        lab.follow(fix, *QUICK)


@case
def engines_that_fail(lab: Lab) -> None:
    build = ("build", lab.trained, *QUICK)

    def failed(name: str) -> None:
        check = GateCheck(name, False, 1.0, 0.5, "it is 1.0, limit 0.5")
        raises(GateResult("int8", False, "failed", (check,)).error())

    lab.refused(lambda: failed("reference"))
    labels = "angry,disgust,fear,happy,sad,surprise,neutral"
    graph = changed(lab, lambda model: None)
    lab.works(lambda: read(graph, labels=labels, mean="0.5077", std="0.255", size="48"))
    lab.refused(lambda: failed("numerics"))
    lab.works(["build", *QUICK])
    lab.refused(lambda: failed("top1"))
    lab.works([*build])
    logits = lab.net.logits(golden_images())
    engine = OnnxRuntimeBackend(lab.onnx)
    lab.refused(lambda: judge_self_test(np.full_like(logits, np.nan), logits, engine))
    lab.works([*build])
    lab.works(lambda: judge_self_test(logits, logits, engine))
    int8 = OnnxRuntimeBackend(lab.onnx, precision="int8")
    with mock.patch("fer_edge.backends.selftest.int8_dot_saturates", return_value=True):
        lab.refused(lambda: judge_self_test(logits[::-1], logits, int8))
    graph_only, _ = bundle_of_classes(lab.folder() / "own", EMOTIONS)
    lab.refused(lambda: run_bench([], lab.faces))
    few = lab.file("few.toml", "count = 32\n")
    again = ("build", lab.trained, "--precision", "int8", "--calibration", few, "--data", DATA)
    short = ("--method", "minmax", "--no-verify", "-o", lab.folder() / "int8")
    lab.works([*again, *short])
    verify = ("--backend", "onnxruntime", "--precision", "fp32", "--no-record", "--data", DATA)
    lab.refused(["verify", graph_only.path, *verify])
    lab.works(["verify", lab.built.path, *verify])
    reason = mock.Mock(return_value="openvino is not installed")
    other = ("build", lab.trained, "--precision", "fp32", "--target", "openvino", "--data", DATA)
    with mock.patch.object(OpenVINOBackend, "unavailable_reason", reason):
        lab.refused([*other])
        lab.works([*other, "--no-verify"])
    lab.refused(["build", lab.onnx, *QUICK, "--prior", "balanced", "--data", DATA])
    lab.works(["build", lab.trained, *QUICK, "--prior", "balanced", "--data", DATA])


@case
def copies_of_a_network(lab: Lab) -> None:
    """Replicas are for one process on a CPU."""

    def replicas(count: int) -> int:
        session = SimpleNamespace(
            batches=SimpleNamespace(size=64),
            accelerator=SimpleNamespace(num_processes=1),
            recipe=SimpleNamespace(run=SimpleNamespace(replicas=count)),
            device=SimpleNamespace(type="cuda"),
            machine=SimpleNamespace(compile=False),
        )
        return Session._replicas(session)  # type: ignore[arg-type]

    lab.refused(lambda: replicas(2))
    lab.works(lambda: replicas(0))


# --- records and bundles ---


@case
def records_of_runs(lab: Lab) -> None:
    folder = lab.folder()
    save_state(folder, "a", {"w": torch.zeros(2)}, {"epoch": 1})
    assert load_state(folder)
    (folder / "a.safetensors").write_bytes(b"x")
    lab.refused(lambda: load_state(folder))
    (folder / "state.json").write_text("{}")
    lab.refused(lambda: load_state(folder))
    lab.works(lambda: unfinished(lab, "started-again"))
    damaged = RUNS / "damaged"
    shutil.copytree(lab.trained, damaged, ignore=shutil.ignore_patterns("bundle"))
    (damaged / "run.json").write_text('{"schema": 1, "status": 7}')
    lab.refused(lambda: RunFolder(damaged).info())
    lab.works(lambda: unfinished(lab, "trained-again").info())
    for name in ("damaged", "started-again", "trained-again"):
        shutil.rmtree(RUNS / name)


@case
def bundles_that_change(lab: Lab) -> None:
    bundle = lab.bundle()

    def write(*, other: bool) -> None:
        with BundleWriter(bundle.path) as writer:
            writer.add_bytes(lab.net.onnx_bytes(), "m.onnx", format="onnx", precision="fp32")
            if other:
                with BundleWriter(bundle.path) as second:
                    second.add_bytes(b"{}", "x.json", format="json")

    lab.refused(lambda: write(other=True))
    lab.works(lambda: write(other=False))
    with BundleWriter(lab.folder() / "bare") as writer:
        writer.add_bytes(b"x", "model.int8.onnx", format="onnx", precision="int8")
    bare = Bundle.open(writer.path)
    lab.refused(lambda: bare.artifact(format="onnx", precision="fp16"))
    lab.works(["build", lab.trained, *QUICK])
    folder = lab.folder() / "tiny"
    shutil.copytree(lab.built.path, _old(folder))

    def settle() -> None:
        with settled(folder):
            assert folder.is_dir()

    with mock.patch("pathlib.Path.rename", side_effect=OSError(13, "Permission denied")):
        fix = lab.refused(settle)
    program, old, new = shlex.split(fix)
    assert program == "mv"
    shutil.move(old, new)
    lab.works(settle)


@heavy
def diverging(lab: Lab) -> None:
    wild = ("train", *TINY, "--set", "optim.clip_norm=0", "--set")
    lab.refused([*wild, "optim.lr=1e30", "--name", "wild"])
    lab.works([*wild, "optim.lr=0.01", "--set", "run.precision=fp32", "--name", "tame"])
