"""Weights taken back out of a bundle: they answer as its graph does, and train on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fixtures_graphs import lively
from torch import nn

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.build.options import GateOptions
from fer_edge.build.pipeline import build
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.convert.checkpoint import made_by, weights_from_bundle
from fer_edge.data import FerDataset
from fer_edge.errors import UsageError
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.folding import refit_norms
from fer_edge.models.weights import load_weights, model_from_weights, save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.pretrained import pretrained_path
from fer_edge.records import to_dict
from fer_edge.training.teachers import find_teachers, open_teacher

NETWORKS = {
    "compact": ModelSpec("compact", {"widths": [16, 16, 32], "blocks": [1, 1, 1]}),
    "repvgg": ModelSpec("repvgg", {"stem": 16, "widths": [16, 32], "blocks": [2, 2]}),
    "plain": ModelSpec("pytorch-cnn", {"widths": [16, 16, 32], "hidden": [16]}),
}


def _without_checkpoint(built: Path, out: Path, **changes: object) -> Bundle:
    """A bundle as it travels to a device: graphs only."""
    whole = Bundle.open(built)
    with BundleWriter(out) as writer:
        graph = whole.artifact(format="onnx", precision="fp32")
        writer.add_file(
            whole.file(graph), graph.path, format="onnx", precision="fp32", meta=graph.meta
        )
        manifest = whole.manifest
        known = {
            key: getattr(manifest, key)
            for key in ("name", "synthetic", "preprocessing", "input", "output", "model", "dataset")
        }
        writer.set(**{**known, "card": manifest.card, **changes})
    return Bundle.open(out)


@pytest.fixture(scope="module", params=list(NETWORKS))
def bundle(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, faces: FerDataset
) -> Bundle:
    spec = NETWORKS[request.param]
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    network = lively(build_model(spec), faces.images)
    meta = {"dataset": faces.info()}
    save_weights(folder / "model.safetensors", network, spec, Preprocessing(), meta)
    build(folder / "model.safetensors", precision="fp32", data=faces, output=folder / "built")
    return _without_checkpoint(folder / "built", folder / "bundle")


def test_the_weights_answer_as_the_graph_does(
    bundle: Bundle, tmp_path: Path, faces: FerDataset
) -> None:
    out = tmp_path / "w.safetensors"
    digest = weights_from_bundle(bundle, faces.images[:300], out)
    assert load_weights(out).sha256 == digest
    model, weights = model_from_weights(out)
    assert weights.info.dataset.sha256 == faces.sha256
    images = faces.images[-32:, None]
    graph = bundle.file(bundle.artifact(format="onnx", precision="fp32"))
    with OnnxRuntimeBackend(graph, preprocessing=weights.preprocessing) as backend:
        wanted = backend.infer(images)
    with torch.inference_mode():
        found = model(torch.from_numpy(weights.preprocessing.normalise(images))).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


def _answers(
    bundle: Bundle, trained: np.ndarray, images: np.ndarray, folder: Path
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of ``images``: with the norms' statistics of ``trained``, and with the batch's own."""
    weights_from_bundle(bundle, trained, folder / "w.safetensors")
    loaded = load_weights(folder / "w.safetensors")
    model = build_model(loaded.spec)
    model.load_state_dict(loaded.state)
    view = torch.from_numpy(loaded.preprocessing.normalise(images[:, None]))
    with torch.no_grad():
        running = model.eval()(view)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.train()
        return running, model(view)


def test_they_do_so_with_a_batchs_own_statistics_too(
    bundle: Bundle, tmp_path: Path, faces: FerDataset
) -> None:
    """Which is how training sees them: norms that were left neutral answer quite otherwise."""
    wanted, found = _answers(bundle, faces.images[:300], faces.images[:300], tmp_path)
    assert (found - wanted).abs().max() < 1e-2 * wanted.std()


def test_norms_refitted_change_no_answer() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(16)
    ).eval()
    for norm in (model[1], model[4]):
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.normal_(norm.bias)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    images = torch.randn(600, 1, 4, 4) * 3 + 1
    with torch.no_grad():
        wanted = model(images)
        seen = model[0](images)
        refit_norms(model, images)
        torch.testing.assert_close(model(images), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model[1].running_mean, seen.mean((0, 2, 3)))


def test_a_run_starts_from_a_bundle_and_knows_how_it_was_made(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: FerDataset
) -> None:
    from fer_edge.cli.train import command
    from fer_edge.runs.folder import RunFolder

    spec = ModelSpec.from_dict(bundle.manifest.model.spec)
    card = {"training": {"commands": ["fer-edge train --name first", "python bench/ship.py first"]}}
    named = _without_checkpoint(bundle.path, tmp_path / "named", card=card)
    assert made_by(named) == ("first", ["fer-edge train --name first"])
    words = ["--data", "synthetic:700:3", "--out", str(tmp_path), "--name", "second"]
    words += ["--init", str(named.path), "--epochs", "1", "--set", f"model.name={spec.name}"]
    words += ["--set", "optim.lr=1e-6", "--set", "run.threads=1"]
    for key, value in spec.options.items():
        words += ["--set", f"model.options.{key}={json.dumps(value)}"]
    CliRunner().invoke(command, words, catch_exceptions=False)
    run = RunFolder(tmp_path / "second")
    info = run.info()
    assert info.status == "finished"
    assert info.init.name == "first"
    assert info.init.commands == ("fer-edge train --name first",)
    before, after = (model_from_weights(each)[0] for each in (run.init, run.model))
    fresh = build_model(spec).eval()
    view = torch.from_numpy(Preprocessing().normalise(faces.images[:32, None]))
    with torch.inference_mode():
        gone, anew = ((before(view) - other(view)).abs().mean() for other in (after, fresh))
    assert 0 < gone < 0.3 * anew, "trained on, not anew"


def test_a_bundle_teaches_and_its_weights_stay_with_the_run(
    tmp_path: Path, faces: FerDataset, weights: Path
) -> None:
    from fer_edge.cli.train import command
    from fer_edge.runs.folder import RunFolder

    build(weights, output=tmp_path / "whole", precision="fp32", gate=GateOptions(verify=False))
    teacher = _without_checkpoint(tmp_path / "whole", tmp_path / "teacher")
    words = ["--data", "synthetic:700:3", "--out", str(tmp_path), "--name", "student"]
    words += ["--teacher", str(teacher.path), "--epochs", "1", "--set", "run.threads=1"]
    words += ["--set", "model.name=compact", "--set", "model.options.widths=[8, 8]"]
    words += ["--set", "model.options.blocks=[1, 1]"]
    CliRunner().invoke(command, words, catch_exceptions=False)
    run = RunFolder(tmp_path / "student")
    assert run.info().status == "finished"
    (info,) = run.info().teachers
    assert info.bundle == teacher.manifest.sha256
    assert info.path == str(run.path.resolve() / "teacher-1.safetensors")
    network, loaded = open_teacher(info)
    assert loaded.sha256 == info.sha256
    with OnnxRuntimeBackend(teacher.file(teacher.artifact(precision="fp32"))) as backend:
        wanted = backend.infer(faces.images[:4, None])
    view = torch.from_numpy(Preprocessing().normalise(faces.images[:4, None]))
    with torch.inference_mode():
        np.testing.assert_allclose(network(view).numpy(), wanted, atol=1e-3)
    # Resumed with the same bundle, it has those weights; another bundle is another teacher.
    names = [str(teacher.path)]
    assert find_teachers(names, tmp_path, faces, known=[info]) == (info,)
    other = _without_checkpoint(tmp_path / "whole", tmp_path / "other", name="other")
    with pytest.raises(UsageError, match="was not started with the bundle") as raised:
        find_teachers([str(other.path)], tmp_path, faces, known=[info])
    assert "without --teacher" in str(raised.value.fix)


def test_a_bundle_of_an_unknown_network_is_refused(
    bundle: Bundle, tmp_path: Path, faces: FerDataset
) -> None:
    model = {k: v for k, v in to_dict(bundle.manifest.model).items() if k != "spec"}
    unknown = _without_checkpoint(bundle.path, tmp_path / "a", model=model)
    with pytest.raises(UsageError, match="does not record its network"):
        weights_from_bundle(unknown, faces.images[:8], tmp_path / "w")
    other = {**to_dict(bundle.manifest.model), "spec": ModelSpec("soc25-baseline", {}).to_dict()}
    wrong = _without_checkpoint(bundle.path, tmp_path / "b", model=other)
    with pytest.raises(UsageError, match="is not the graph of 'soc25-baseline'"):
        weights_from_bundle(wrong, faces.images[:8], tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_the_pretrained_network_can_be_trained_on(tmp_path: Path, faces: FerDataset) -> None:
    weights_from_bundle(Bundle.open(pretrained_path("fer2013")), faces.images[:300], tmp_path / "w")
    loaded = load_weights(tmp_path / "w")
    assert loaded.spec.name == Bundle.open(pretrained_path("fer2013")).manifest.model.name
    assert loaded.info.recipe["data"]["holdout"] > 0


def test_the_norms_come_from_images_spread_over_all(
    bundle: Bundle, tmp_path: Path, faces: FerDataset
) -> None:
    """A folder's images are sorted by class: the first ones would be one class."""
    few = faces.images[:256]
    wanted, found = _answers(bundle, np.repeat(few, 16, axis=0), few, tmp_path)
    assert (found - wanted).abs().max() < 1e-2 * wanted.std()
