"""Advice that names commands and options: it is run as it is printed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from fixes_lab import DATA, TINY, Lab, case, heavy
from fixtures_bundle import bundle_of_classes

from fer_edge.build.foreign import open_graph
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.cli.shared.splits import SplitOptions, resplit_from_options
from fer_edge.convert.onnx_file import OnnxFile
from fer_edge.data import load
from fer_edge.measure.bench import candidates
from fer_edge.models.weights import load_weights, weights_bytes
from fer_edge.runs.find import (
    A_BUNDLE,
    A_RUN,
    TO_BUILD,
    TO_START_FROM,
    find,
    newest_run,
)
from fer_edge.runs.folder import RunFolder, check_new_name, create_run
from fer_edge.runs.recipe import load_recipe
from fer_edge.training.loop import train
from fer_edge.training.soup import find_ingredients
from fer_edge.training.teachers import find_teachers, open_teacher

RUNS = Path("runs")
QUICK = ("--precision", "fp32", "--no-verify")


def unfinished(lab: Lab, name: str) -> RunFolder:
    """Return a run that was made, and not trained."""
    options = [word for word in TINY if "=" in word]
    recipe = load_recipe("default", [*options, "epochs=1"])
    return create_run(RUNS, name, recipe, lab.faces.info(), DATA)


# --- names ---


@case
def names(lab: Lab) -> None:
    empty = lab.folder()
    lab.refused(lambda: newest_run(empty))
    lab.refused(lambda: find("mine", empty, A_RUN))
    lab.refused(lambda: find("mine", empty, A_BUNDLE))
    lab.works(lambda: lab.trained)
    lab.refused(lambda: find(None, RUNS, TO_START_FROM))
    lab.works(lambda: find("mine", RUNS, A_RUN))
    for wrong, wants in (("mime", A_RUN), ("zzzzzz", A_RUN)):
        lab.refused(lambda wrong=wrong, wants=wants: find(wrong, RUNS, wants))
        lab.works(lambda: find("mine", RUNS, A_RUN))
    text = lab.file("model.txt", "x")
    lab.refused(lambda: find(text, RUNS, TO_BUILD))
    lab.works(lambda: find(lab.onnx, RUNS, TO_BUILD))
    folder = lab.folder()
    (folder / "x").mkdir()
    lab.refused(lambda: find(folder, RUNS, A_BUNDLE))
    lab.works(lambda: find(lab.bundle().path, RUNS, A_BUNDLE))
    torch = lab.file("model.pth", b"PK\3\4")
    lab.refused(lambda: find(torch, RUNS, TO_START_FROM))
    lab.works(lambda: find("mine", RUNS, TO_START_FROM))
    built = lab.built
    lab.refused(lambda: find(built.path, RUNS, A_RUN))
    lab.works(lambda: find("runs/mine", RUNS, A_RUN))
    other = lab.bundle()
    lab.refused(lambda: find(other.path, RUNS, A_RUN))
    lab.works(lambda: find("mine", RUNS, A_RUN))
    lab.refused(lambda: find("pretrained", RUNS, A_RUN))
    lab.works(lambda: find("mine", RUNS, A_RUN))
    packed = lab.folder() / "tiny.fer"
    lab._do(["bundle", "pack", other.path, "-o", packed])
    fix = lab.refused(lambda: find(packed, RUNS, A_BUNDLE))
    lab.follow(fix, "-o", str(lab.folder() / "tiny"))
    lab.refused(lambda: find(RUNS, RUNS, A_RUN))
    lab.works(lambda: find("runs/mine", RUNS, A_RUN))


@case
def a_run_without_a_bundle(lab: Lab) -> None:
    shutil.copytree(lab.trained, RUNS / "bare", ignore=shutil.ignore_patterns("bundle"))
    fix = lab.refused(["inspect", "bare"])
    lab.follow(fix, *QUICK)
    lab.works(["inspect", "bare"])
    weights = RUNS / "bare" / "model.safetensors"
    fix = lab.refused(lambda: find(weights, RUNS, A_BUNDLE))
    lab.follow(fix, *QUICK, "-o", str(lab.folder() / "b"))


@case
def names_of_new_runs(lab: Lab) -> None:
    assert lab.trained
    lab.refused(lambda: check_new_name(RUNS, "mine"))
    lab.works(lambda: check_new_name(RUNS, "other"))
    lab.refused(lambda: check_new_name(RUNS, "-x"))
    lab.works(lambda: check_new_name(RUNS, "x-1"))


# --- training ---


@heavy
def resuming(lab: Lab) -> None:
    assert lab.trained
    lab.refused(["train", "--resume", "mine", "--name", "x"])
    fix = lab.refused(["train", "--resume", "mine"])
    lab.follow(fix, *QUICK)
    run = unfinished(lab, "fresh")
    lab.refused(["train", "--resume", "fresh", "--name", "x"])
    lab.refused(["train", "--resume", "fresh", "--epochs", "9"])
    lab.refused(["train", "--resume", "fresh", "--split", "80/10/10"])
    lab.refused(["train", "--resume", "fresh", "--teacher", "mine"])
    lab.refused(["train", "--resume", "fresh", "--teacher", lab.built.path])
    lab.refused(["train", "--resume", "fresh", "--data", "synthetic:140"])
    lab.refused(lambda: find_teachers(["fresh"], RUNS, lab.faces))
    lab.refused(lambda: find_ingredients(["fresh", "mine"], RUNS, lab.faces))
    fix = lab.refused(lambda: find("fresh", RUNS, A_RUN).weights())
    with run.locked():
        lab.refused(["train", "--resume", "fresh"])
    lab.follow(fix)
    lab.refused(["train", "--resume"])
    lab.works(["train", *TINY, "--name", "started"])


@heavy
def training(lab: Lab) -> None:
    assert lab.trained
    lab.refused(["train", *TINY, "--folds", "2", "--teacher", "mine"])
    lab.refused(["train", *TINY, "--folds", "2", "--init", "mine"])
    lab.works(["train", *TINY, "--folds", "2", "--name", "cv"])
    lab.refused(lambda: find("cv", RUNS, A_RUN))
    lab.works(lambda: find("runs/cv/fold-1", RUNS, A_RUN))
    lab.refused(lambda: resplit_from_options(SplitOptions("80/10/10", None, False, 2)))
    lab.works(lambda: resplit_from_options(SplitOptions("80/10/10", None, False, None)))
    lab.refused(lambda: resplit_from_options(SplitOptions(None, 3, False, None)))
    lab.works(lambda: resplit_from_options(SplitOptions("80/10/10", 3, False, None)))
    lab.refused(["train", *TINY, "--set", "distill.alpha=0.5", "--name", "student"])
    lab.refused(["train", *TINY, "--teacher", "mine", "--teacher", "mine", "--name", "student"])
    lab.works(
        ["train", *TINY, "--set", "distill.alpha=0.5", "--teacher", "mine", "--name", "student"]
    )
    lab.refused(lambda: find_teachers(["mine"], RUNS, lab.faces.take(np.arange(420)[::2])))
    lab.works(lambda: find_teachers(["mine"], RUNS, lab.faces))
    lab.refused(lambda: find_ingredients(["mine", "mine"], RUNS, lab.faces))
    lab.refused(["soup", "mine", "mine", "--name", "s"])
    lab.works(["soup", "mine", "student", "--name", "s"])
    fix = lab.refused(["train", "--resume", "s"])
    lab._pending.clear()
    assert fix
    folder = RUNS / "part"
    shutil.copytree(RUNS / "cv", folder, ignore=shutil.ignore_patterns("fold-2", "cv.json"))
    lab.refused(lambda: find_teachers(["part"], RUNS, lab.faces))
    lab.works(lambda: find_teachers(["cv"], RUNS, lab.faces))


@heavy
def confidences(lab: Lab) -> None:
    assert lab.trained
    fix = lab.refused(["predict", lab.face, "--no-detect", "--bundle", lab.built.path, "--abstain"])
    lab.follow(fix, RUN="mine", options={"build": QUICK, "confidence": ("--accuracy", "0.05")})
    lab.works(["predict", lab.face, "--no-detect", "--bundle", "mine", "--abstain"])
    lab._do(["train", *TINY, "--name", "whole"])
    fix = lab.refused(["confidence", "whole"])
    lab.follow(fix, *(word for word in TINY), "--name", "held")
    lab.refused(["confidence", "mine", "--data", "synthetic:140"])
    lab.works(["confidence", "mine"])
    shutil.copytree(RUNS / "mine", RUNS / "refit", ignore=shutil.ignore_patterns("bundle"))
    run = RunFolder(RUNS / "refit")
    weights = load_weights(run.model)
    state = {k: v * 1.001 if v.is_floating_point() else v for k, v in weights.state.items()}
    content = weights_bytes(state, weights.spec, weights.preprocessing, weights.info)
    run.write_weights({run.model.name: content})
    fix = lab.refused(["build", run.path, *QUICK])
    lab.follow(fix, "--accuracy", "0.05")
    lab.works(["build", run.path, *QUICK])


# --- bundles ---


@case
def bundles(lab: Lab) -> None:
    bundle = lab.bundle()
    folder = lab.folder()
    packed = folder / "tiny.fer"
    lab._do(["bundle", "pack", bundle.path, "-o", packed])
    other = shutil.copyfile(packed, folder / "tiny.bin")
    lab.refused(["bundle", "unpack", other])
    lab.works(["bundle", "unpack", other, "-o", folder / "out"])
    lab.refused(["bundle", "unpack", packed, "-o", folder / "out"])
    lab.works(["bundle", "unpack", packed, "-o", folder / "out", "--replace"])
    (folder / "own").mkdir()
    (folder / "own" / "x").write_text("x")
    lab.refused(["bundle", "unpack", packed, "-o", folder / "own"])
    lab.works(["bundle", "unpack", packed, "-o", folder / "new"])
    cut = lab.file("cut.fer", packed.read_bytes()[:-2000])
    lab.refused(["bundle", "unpack", cut, "-o", folder / "cut"])
    lab.works(["bundle", "pack", bundle.path, "-o", folder / "again.fer"])
    lab.refused(["inspect", bundle.path, "--card", "--format", "csv"])
    lab.works(["inspect", bundle.path, "--card", "--format", "markdown"])
    lab._do(["bundle", "triton", bundle.path, "-o", folder / "triton"])
    lab.refused(["bundle", "triton", bundle.path, "-o", folder / "triton"])
    lab.works(["bundle", "triton", bundle.path, "-o", folder / "triton", "--replace"])
    parted, _ = bundle_of_classes(lab.folder() / "parted", ("cat;dog", "bird"))
    whole, _ = bundle_of_classes(lab.folder() / "whole", ("cat-dog", "bird"))
    deepstream = ("-o", folder / "deepstream", "--precision", "fp32")
    lab.refused(["bundle", "deepstream", parted.path, *deepstream])
    lab.works(["bundle", "deepstream", whole.path, *deepstream])
    nothing = lab.folder()
    for wrong in (nothing, nothing / "none", lab.onnx):
        lab.refused(lambda wrong=wrong: Bundle.open(wrong))
    lab.works(["build", lab.trained, *QUICK, "-o", lab.folder() / "b"])


@case
def damaged_bundles(lab: Lab) -> None:
    damaged = lab.bundle()
    graph = damaged.path / "model.fp32.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    fix = lab.refused(["inspect", damaged.path])
    lab.refused(damaged.check)
    lab.refused(lambda: damaged.read(damaged.artifact(format="onnx", precision="fp32")))
    forged = lab.bundle()
    manifest = forged.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"Apache", b"apache"))
    lab.refused(lambda: Bundle.open(forged.path))
    assert lab.trained
    lab.follow(fix, *QUICK)


@case
def engines(lab: Lab) -> None:
    bundle = lab.bundle("onnxruntime")
    face = ("predict", lab.face, "--no-detect", "--bundle", bundle.path)
    lab.refused([*face, "--backend", "pytorch", "--precision", "int8"])
    lab.works([*face, "--backend", "onnxruntime", "--precision", "int8"])
    graph_only, _ = bundle_of_classes(lab.folder() / "own", ("cat", "dog"))
    face = ("predict", lab.face, "--no-detect", "--bundle", graph_only.path)
    lab.refused([*face, "--backend", "pytorch"])
    lab.works([*face, "--backend", "onnxruntime", "--precision", "fp32"])
    lab.refused([*face, "--backend", "onnxrutime"])
    lab.works([*face, "--backend", "onnxruntime"])
    failed = lab.folder() / "failed"
    with BundleWriter(failed) as writer:
        writer.add_bytes(lab.net.onnx_bytes(), "model.fp32.onnx", format="onnx", precision="fp32")
        writer.add_bytes((bundle.path / "golden.npz").read_bytes(), "golden.npz", format="npz")
        writer.add_gate({"precision": "fp32", "target": "", "passed": False, "status": "failed"})
    fix = lab.refused(["predict", lab.face, "--no-detect", "--bundle", failed])
    option = fix.rpartition(": ")[2].split()
    lab.works(["predict", lab.face, "--no-detect", "--bundle", failed, *option])
    verify = ("verify", lab.built.path, "--precision", "fp32", "--no-record")
    lab.refused([*verify, "--backend", "pytorch"])
    lab.works([*verify, "--backend", "onnxruntime"])
    lab.refused(["verify", graph_only.path, "--backend", "onnxruntime", "--no-record"])
    lab._pending.clear()
    fix = lab.refused(lambda: lab.built.artifact(format="onnx", precision="fp16"))
    lab.follow(fix, "--no-verify")


@case
def pictures_and_figures(lab: Lab) -> None:
    face, bundle = lab.face, lab.bundle().path
    lab.refused(["predict", " ", "--bundle", bundle])
    lab.refused(["predict", "*.nothing", "--bundle", bundle])
    lab.refused(["predict", face, "--no-detect", "--detector", "haar", "--bundle", bundle])
    lab.works(["predict", face, "--no-detect", "--bundle", bundle])
    bad = lab.file("bad.png", "x")
    lab.refused(["predict", face, bad, "--no-detect", "--bundle", bundle])
    lab.works(["predict", face, "--no-detect", "--bundle", bundle])
    out = lab.folder()
    lab.refused(["explain", lab.trained])
    lab.works(["explain", lab.trained, "--image", face, "-o", out])
    lab.refused(["explain", bundle, "--image", face, "-o", out])
    lab._pending.clear()
    plot = ("plot", "predictions", lab.trained, "-o", out / "p.png", "--count", "2")
    lab.refused([*plot, "--mistakes", "--random"])
    lab.works([*plot, "--random"])


@case
def rows_of_a_bench(lab: Lab) -> None:
    bundle = lab.bundle()
    lab.refused(lambda: candidates([bundle], ["null"], ["int8"]))
    lab.works(lambda: candidates([bundle], ["onnxruntime"], ["int8"]))


# --- building ---


@case
def sources(lab: Lab) -> None:
    assert lab.trained
    fix = lab.refused(["build", "pretrained:votes", *QUICK])
    folder = lab.folder()
    lab.follow(fix.replace("-o ", f"-o {folder}/"), *QUICK)
    lab.refused(["build", "mine", *QUICK, "--labels", "a,b"])
    lab.works(["build", "mine", *QUICK])
    bare = lab.folder() / "bare"
    with BundleWriter(bare) as writer:
        writer.add_bytes(b"x", "model.int8.onnx", format="onnx", precision="int8")
    lab.refused(["build", bare, *QUICK])
    lab.works(["build", "mine", *QUICK])


@case
def foreign_graphs(lab: Lab) -> None:
    graph = lab.file("model.onnx", lab.net.onnx_bytes(uint8=False))
    pixels = lab.file("pixels.onnx", lab.net.onnx_bytes())

    def read(path: Path = graph, **options: str) -> Any:
        return open_graph(OnnxFile.from_text(path, **options)).with_classes(None)

    lab.refused(lambda: read(labels="a,b"))
    lab.works(lambda: read(labels="angry,disgust,fear,happy,sad,surprise,neutral"))
    lab.refused(lambda: read(mean="128", std="64"))
    lab.works(lambda: read(mean="128", std="64", scale="1"))
    lab.refused(lambda: read(size="64"))
    lab.works(read)
    lab.refused(lambda: read(colour="rgb"))
    lab.works(lambda: read(colour="gray"))
    lab.refused(lambda: read(mean="0.4,0.5,0.6"))
    lab.works(lambda: read(mean="0.5"))
    lab.refused(lambda: read(pixels, mean="0.5"))
    lab.works(lambda: read(pixels))
    lab.refused(lambda: read(layout="nhwc"))
    lab.works(lambda: read(layout="nchw"))


@heavy
def teachers_and_soups(lab: Lab) -> None:
    run = RunFolder(lab.trained)
    tree = lab.tree("cat", "dog")
    other = load(tree, cache=False, classes="own")
    lab.refused(lambda: find_teachers(["mine"], RUNS, other))
    with run.locked():
        lab.refused(lambda: find_teachers(["mine"], RUNS, lab.faces))
    lab.works(lambda: find_teachers(["mine"], RUNS, lab.faces))
    wider = ("--set", "model.options.widths=[8, 24]", "--set", "data.holdout=0.2")
    lab._do(["train", *TINY, *wider, "--name", "wider"])
    lab._do(["train", *TINY, "--set", "data.holdout=0.2", "--seed", "3", "--name", "seeded"])
    lab.refused(lambda: find_ingredients(["mine", "wider"], RUNS, lab.faces))
    lab.refused(lambda: find_ingredients(["mine", "seeded"], RUNS, other))
    lab.works(["soup", "mine", "seeded", "--name", "mean"])
    fix = lab.refused(lambda: train(RunFolder(RUNS / "mean"), run.recipe(), lab.faces))
    lab.follow(fix, *TINY, "--set", "data.holdout=0.2", "--name", "from-mean")
    teacher = find_teachers(["mine"], RUNS, lab.faces)[0]
    gone = msgspec.structs.replace(teacher, path=str(lab.folder() / "none.safetensors"))
    lab.refused(lambda: open_teacher(gone))
    lab.works(lambda: open_teacher(teacher))
    lab.refused(lambda: open_teacher(msgspec.structs.replace(teacher, sha256="0" * 64)))
    lab.works(lambda: open_teacher(teacher))


@heavy
def searches(lab: Lab) -> None:
    space = lab.file("own.toml", '[space."optim.lr"]\ntype = "float"\nlow = 0.01\nhigh = 0.1\n')
    search = ("search", "--space", space, *TINY, "--trials", "1", "--study", "one")
    lab.refused([*search, "--set", "optim.lr=0.1"])
    folder = lab.folder()
    for wrong in (folder, lab.file("x", b"SQLite format 3\0\n\xff\n"), "nothing://x"):
        lab.refused([*search, "--storage", wrong])
    lab.works([*search, "--storage", folder / "own.journal"])
    lab.refused([*search, "--storage", folder / "own.journal", "--data", "synthetic:140"])
    lab.works([*search, "--storage", folder / "own.journal", "--pruner", "none"])
