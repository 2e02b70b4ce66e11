"""Advice of builds, fine-tuning, soups, folds and searches."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import onnx
import optuna
import torch
from fixes_commands import QUICK, RUNS
from fixes_graphs import changed, read
from fixes_lab import DATA, TINY, Lab, case, heavy
from fixtures_film import write_film
from fixtures_votes import write_voted

from fer_edge.build.qat import qat_setup
from fer_edge.build.votes import with_training_votes
from fer_edge.bundle import Bundle
from fer_edge.convert.graph import load_model, read_graph, wiring
from fer_edge.convert.network import data_of_graph
from fer_edge.data import load
from fer_edge.data.calibration import CalibrationRecipe, select_calibration
from fer_edge.deploy.deepstream import cut_normalisation
from fer_edge.faces.detect import DETECTORS, DetectorRow
from fer_edge.measure.bench import candidates
from fer_edge.measure.latency import LatencySamples
from fer_edge.models import build_model
from fer_edge.models.folding import folded
from fer_edge.models.weights import load_weights, model_from_weights, weights_bytes
from fer_edge.preprocessing import Preprocessing
from fer_edge.quantize.early import early_layers
from fer_edge.quantize.ranges import ranges_from_onnx
from fer_edge.runs.folder import RunFolder
from fer_edge.training.fake_quant import FakeQuantised
from fer_edge.training.qat import QatSession
from fer_edge.training.search.search import MIN_FOR_IMPORTANCE, Search, Trial
from fer_edge.training.soup import find_ingredients
from fer_edge.training.teachers import find_teachers


def few(lab: Lab) -> tuple[str, ...]:
    """Return the options of a short INT8 build."""
    recipe = lab.file("few.toml", "count = 32\n")
    return ("--calibration", str(recipe), "--method", "minmax", "--rounding", "nearest")


@case
def bundles_for_deepstream(lab: Lab) -> None:
    def cut(scaling: Preprocessing) -> None:
        bundle = lab.built
        graph = bundle.file(bundle.artifact(format="onnx", precision="fp32"))
        cut_normalisation(load_model(graph), scaling)

    fix = lab.refused(lambda: cut(Preprocessing(mean=0.1, std=0.9)))
    lab.follow(fix, *QUICK)
    lab.works(lambda: cut(lab.built.preprocessing))


@case
def votes_of_a_network(lab: Lab) -> None:
    one, two = lab.folder(), lab.folder()
    write_voted(lab.faces, one)
    write_voted(lab.faces, two)
    table = two / "fer2013new.csv"
    table.write_text(table.read_text().replace(",7,", ",6,", 1))
    faces = partial(load, one / "faces.npz", cache=False)
    voters = faces(votes=one / "fer2013new.csv").voters
    assert voters is not None
    info: Any = SimpleNamespace(by_votes=True, dataset=SimpleNamespace(votes=voters.sha256))
    lab.refused(lambda: with_training_votes(faces(), info, None, table))
    lab.works(lambda: with_training_votes(faces(), info, None, one / "fer2013new.csv"))


@case
def classes_in_metadata(lab: Lab) -> None:
    def note(model: Any) -> None:
        entry = model.metadata_props.add()
        entry.key, entry.value = "fer_edge.labels", '["happy", "happy"]'

    path = changed(lab, note)
    lab.refused(lambda: data_of_graph(read_graph(path)))
    lab.works(lambda: read(path, labels="angry,disgust,fear,happy,sad,surprise,neutral"))


def own_setup(lab: Lab, model: Any = None) -> Any:
    """Return the INT8 setup of the lab's network, or of ``model`` in its place."""
    bundle = lab.built
    path = bundle.file(bundle.artifact(format="onnx", precision="fp32"))
    if model is not None:
        path = lab.file("other.onnx", model.SerializeToString())
    chosen = select_calibration(lab.faces, CalibrationRecipe("few", count=32))
    ranges = ranges_from_onnx(path, lab.faces, chosen, method="minmax", cache=False)
    return qat_setup(path, ranges, "onnxruntime")


@case
def networks_to_fine_tune(lab: Lab) -> None:
    bundle = lab.built
    model = onnx.load(bundle.file(bundle.artifact(format="onnx", precision="fp32")))
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Softplus"
    fix = lab.refused(lambda: own_setup(lab, model))
    lab.follow(fix, *QUICK)

    def check(network: torch.nn.Module, weights: Any) -> None:
        example = torch.randn(2, 1, 48, 48, generator=torch.Generator().manual_seed(0))
        frame = build_model(weights.spec.untrained()).eval()
        frame.load_state_dict(weights.state)
        session: Any = SimpleNamespace(spec=weights.spec, teachers=[weights], _frame=frame)
        tuned = FakeQuantised(own_setup(lab), folded(network, example).state_dict())
        with torch.no_grad():
            QatSession._check(session, tuned, frame.train(mode=False), example)

    weights = load_weights(lab.trained / "model.safetensors")
    own, _ = model_from_weights(lab.trained / "model.safetensors")
    torch.manual_seed(1)
    lab.refused(lambda: check(build_model(weights.spec).eval(), weights))
    lab.works(lambda: check(own.eval(), weights))


@case
def soups_of_tuned_runs(lab: Lab) -> None:
    def copy(name: str) -> None:
        shutil.copytree(lab.trained, RUNS / name, ignore=shutil.ignore_patterns("bundle"))
        weights = load_weights(lab.trained / "model.safetensors")
        state = {k: v * 1.001 if v.is_floating_point() else v for k, v in weights.state.items()}
        info = weights.info
        file = weights_bytes(state, weights.spec, weights.preprocessing, info)
        RunFolder(RUNS / name).write_weights({"model.safetensors": file})

    def tuned(path: Path) -> Any:
        weights = load_weights(path)
        if "tuned" not in str(path):
            return weights
        return replace(weights, info=msgspec.structs.replace(weights.info, qat=object()))

    for name in ("tuned", "untuned-copy"):
        copy(name)
    with mock.patch("fer_edge.training.soup.load_weights", tuned):
        lab.refused(lambda: find_ingredients(["mine", "tuned"], RUNS, lab.faces))
    lab.works(lambda: find_ingredients(["mine", "untuned-copy"], RUNS, lab.faces))
    for name in ("tuned", "untuned-copy"):
        shutil.rmtree(RUNS / name)


@heavy
def importance_of_parameters(lab: Lab) -> None:
    study = optuna.create_study(direction="maximize")
    for number in range(2 * MIN_FOR_IMPORTANCE):
        distributions = {"optim.lr": optuna.distributions.FloatDistribution(0, 1)}
        study.add_trial(
            optuna.trial.create_trial(
                params={"optim.lr": number / 20}, distributions=distributions, value=number / 20
            )
        )

    def importance(values: list[float]) -> dict[str, float]:
        trials = [Trial(n, "complete", value, {}, 1, None) for n, value in enumerate(values)]
        return Search.importance(SimpleNamespace(trials=lambda: trials, study=study))  # type: ignore[arg-type]

    lab.refused(lambda: importance([0.1, 0.2]))
    lab.refused(lambda: importance([0.5] * MIN_FOR_IMPORTANCE))
    found = lab.works(lambda: importance([n / 20 for n in range(2 * MIN_FOR_IMPORTANCE)]))
    assert found["optim.lr"] > 0.9


@case
def early_layers_in_half(lab: Lab) -> None:
    bundle = lab.built
    path = bundle.file(bundle.artifact(format="onnx", precision="fp32"))
    weighted = [node.name for node in load_model(path).graph.node if node.op_type == "Conv"]

    def groups(chosen: list[str], size: int | None) -> dict[str, tuple[str, ...]]:
        model = load_model(path)
        if size is None:
            for dim, name in zip(model.graph.input[0].type.tensor_type.shape.dim[2:], "hw"):
                dim.dim_param = name
            del model.graph.value_info[:]
        return early_layers(model, wiring(model), chosen)

    fix = lab.refused(lambda: groups(weighted, None))
    assert "--exclude NODE" in fix
    # The other half of the advice: INT8 with that layer named, and not found by its size.
    build = ("build", lab.trained, "--precision", "int8", "--target", "onnxruntime", "--no-verify")
    out = ("-o", lab.folder() / "b")
    lab.works([*build, *few(lab), "--exclude", weighted[0], "--data", DATA, *out])
    assert groups(weighted, 48)["stem"]


@heavy
def int8_of_devices(lab: Lab) -> None:
    build = ("build", lab.trained, "--precision", "int8", "--no-verify", *few(lab), "--data", DATA)
    orin = ("--target", "orin-jp62", "-o", lab.folder() / "orin")
    lab.refused([*build, *orin, "--weights", "saturation-safe"])
    lab.works([*build, *orin])
    cpu = (*build[:4], *few(lab), "--data", DATA, "--target", "onnxruntime")
    slow = {"int8": LatencySamples((np.full(9, 2),)), "fp32": LatencySamples((np.full(9, 1),))}
    with mock.patch("fer_edge.measure.proof.time_backends", return_value=slow):
        fix = lab.refused([*cpu, "-o", lab.folder() / "slow"])
    assert fix.startswith("use --precision fp32")
    fp32 = ("build", lab.trained, *fix.partition(",")[0].split()[1:])
    lab.works([*fp32, "--no-verify", "-o", lab.folder() / "fp32"])
    assert Bundle.open(lab.trained / "bundle")


@case
def options_without_effect(lab: Lab) -> None:
    build = ("build", lab.trained, "--precision", "fp32", "--target", "onnxruntime")
    lab.refused([*build, "--exclude", "no-such-node"])
    lab.refused([*build, "--no-verify", "--split", "train"])
    lab.works([*build, "--no-verify", "-o", lab.folder() / "fp32"])
    bundle = lab.bundle()
    faces = ("predict", lab.face, "--no-detect", "--bundle", bundle.path)
    lab.refused([*faces, "--every-face"])
    lab.works(faces)
    lab.refused(lambda: candidates([bundle], ["null"]))
    lab.works(lambda: candidates([bundle], ["null", "onnxruntime"]))
    lab.refused(lambda: candidates([bundle], ["pytorch"], ["int8"]))
    lab.works(lambda: candidates([bundle], ["pytorch"]))
    film = write_film(lab.folder() / "film.avi", [np.zeros((120, 160, 3), np.uint8)] * 3)
    camera = ("camera", film, "--bundle", bundle.path, "--detector", "own", "--format", "json")
    row = DetectorRow("fixtures_film:ScriptedDetector", (), "")
    with mock.patch.dict(DETECTORS, own=row):
        lab.refused([*camera, "--width", "640"])
        lab.works(camera)


@heavy
def naive_folds(lab: Lab) -> None:
    folds = ("train", *TINY, "--folds", "2", "--name")
    lab._do([*folds, "naive", "--allow-duplicates-across"])
    lab.refused(lambda: find_teachers(["naive"], RUNS, lab.faces))
    lab.works([*folds, "kept-together"])
    lab.works(lambda: find_teachers(["kept-together"], RUNS, lab.faces))
