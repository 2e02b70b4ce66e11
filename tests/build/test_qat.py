"""Fine-tuning for INT8: what training rounds is what the exported graph rounds, to the end."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fixtures_graphs import lively
from fixtures_votes import write_voted
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.build.options import GateOptions, Int8Options
from fer_edge.build.pipeline import build
from fer_edge.build.qat import qat_setup
from fer_edge.bundle import Bundle
from fer_edge.convert.export import onnx_from_weights
from fer_edge.convert.graph import load_model
from fer_edge.data import CalibrationRecipe, CalibrationSet, FerDataset, select_calibration
from fer_edge.errors import UsageError
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.folding import folded, state_from_folded
from fer_edge.models.weights import load_weights, model_from_weights, save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.provenance import WeightsInfo
from fer_edge.quantize.int8 import quantise
from fer_edge.quantize.placement import PLACEMENTS, placement_for
from fer_edge.quantize.ranges import Ranges, ranges_from_onnx
from fer_edge.quantize.trials import step_by_step
from fer_edge.quantize.weights import quantise_weights
from fer_edge.records import read_record, to_dict
from fer_edge.runs.qat import Grid, QatSetup
from fer_edge.runs.recipe import recipe_from_dict, with_overrides
from fer_edge.training import loop
from fer_edge.training.distill import distillation_loss
from fer_edge.training.fake_quant import FakeQuantised, weight_scales
from fer_edge.training.qat import qat_recipe
from fer_edge.training.start import start_run
from fer_edge.training.teachers import find_teachers

NETWORKS = {
    "compact": ModelSpec("compact", {"widths": [16, 16, 32], "blocks": [1, 1, 1]}),
    "repvgg": ModelSpec("repvgg", {"stem": 16, "widths": [16, 32], "blocks": [2, 2]}),
    "plain": ModelSpec("pytorch-cnn", {"widths": [16, 16, 32], "hidden": [16]}),
}


@pytest.fixture(scope="module", params=list(NETWORKS))
def network(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    faces: FerDataset,
    calibration: CalibrationSet,
) -> tuple[Path, Path, Ranges]:
    """Weights of a network, its graph and its ranges."""
    spec = NETWORKS[request.param]
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    meta = {"dataset": faces.info()}
    path = folder / "model.safetensors"
    save_weights(path, lively(build_model(spec), faces.images), spec, Preprocessing(), meta)
    onnx_from_weights(path, folder / "fp32.onnx")
    ranges = ranges_from_onnx(folder / "fp32.onnx", faces, calibration, cache=False)
    return path, folder / "fp32.onnx", ranges


def _view(images: np.ndarray) -> Tensor:
    return torch.from_numpy(Preprocessing().normalise(images[:, None]))


def _fake(weights: Path, setup: QatSetup) -> FakeQuantised:
    model, _ = model_from_weights(weights)
    return FakeQuantised(setup, folded(model, torch.randn(2, 1, 48, 48)).state_dict())


@torch.no_grad()
def _logits(network: nn.Module, images: np.ndarray) -> np.ndarray:
    found: np.ndarray = network(_view(images)).numpy()
    return found


@pytest.mark.parametrize(
    ("target", "half"), [*((name, False) for name in PLACEMENTS), ("tensorrt", True)]
)
def test_training_rounds_where_the_exported_graph_does(
    network: tuple[Path, Path, Ranges], target: str, half: bool, faces: FerDataset
) -> None:
    weights, src, ranges = network
    fake = _fake(weights, qat_setup(src, ranges, target, half_scales=half))
    model, _ = quantise(load_model(src), ranges, placement_for(target), half_scales=half)
    images = faces.images[:64]
    exported = step_by_step(model, images)
    exact = step_by_step(load_model(src), images)
    found = _logits(fake, images)
    error, rounding = np.abs(found - exported).mean(), np.abs(exact - exported).mean()
    # What is left: sums rounded in another order, where they fall between two integers.
    assert error < 0.1 * rounding
    assert error < 0.005 * exported.std()
    fake.exact = True
    np.testing.assert_allclose(_logits(fake, images), exact, atol=1e-4)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("mode", ["full", "saturation-safe"])
@pytest.mark.parametrize("shape", [(8, 5, 3, 3), (7, 33), (4, 1, 1, 1)])
def test_weights_have_the_steps_of_the_export(
    mode: str, half: bool, shape: tuple[int, ...]
) -> None:
    weight = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    weight[0] = 0
    integers, scales = quantise_weights(weight, mode=mode, half_scales=half)  # type: ignore[arg-type]
    found = weight_scales(torch.from_numpy(weight), mode, half=half)
    np.testing.assert_allclose(found.numpy(), scales, rtol=1e-6)
    rounded = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(weight), found, torch.zeros(len(found), dtype=torch.int32), 0, -127, 127
    )
    steps = scales.reshape(-1, *[1] * (weight.ndim - 1))
    np.testing.assert_allclose(rounded.numpy(), integers * steps, rtol=1e-5, atol=1e-9)


def test_tuned_weights_find_the_way_back_into_the_network(
    network: tuple[Path, Path, Ranges], tmp_path: Path
) -> None:
    weights, src, ranges = network
    fake = _fake(weights, qat_setup(src, ranges, "onnxruntime"))
    with torch.no_grad():
        for value in fake.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    loaded = load_weights(weights)
    frame = build_model(loaded.spec).eval()
    frame.load_state_dict(loaded.state)
    state = state_from_folded(frame, fake.named_weights())
    save_weights(tmp_path / "t.safetensors", state, loaded.spec, Preprocessing(), loaded.info)
    again, _ = model_from_weights(tmp_path / "t.safetensors")
    fake.exact = True
    images = np.random.default_rng(0).integers(0, 256, (8, 48, 48), dtype=np.uint8)
    np.testing.assert_allclose(_logits(again, images), _logits(fake, images), rtol=1e-4, atol=1e-4)


def test_tuning_brings_the_answers_back(
    weights: Path, fp32: Path, ranges: Ranges, faces: FerDataset
) -> None:
    """With three bits, where rounding hurts even a tiny network."""
    setup = qat_setup(fp32, ranges, "onnxruntime")

    def coarse(grid: Grid) -> Grid:
        return Grid(grid.scale * 32, grid.zero // 32, 0, 7)

    grids = {name: coarse(grid) for name, grid in setup.grids.items()}
    setup = msgspec.structs.replace(setup, grids=grids)
    fake = _fake(weights, setup)
    view = _view(faces.images[:24])
    teacher, _ = model_from_weights(weights)
    with torch.no_grad():
        wanted = teacher(view).log_softmax(1)
    optimizer = torch.optim.AdamW(fake.parameters(), lr=1e-3, weight_decay=0)
    losses = []
    for _ in range(20):
        loss = F.kl_div(fake(view).log_softmax(1), wanted, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.6 * losses[0]


def test_a_setup_survives_json(network: tuple[Path, Path, Ranges]) -> None:
    import json

    _, src, ranges = network
    setup = qat_setup(src, ranges, "tensorrt")
    content = json.loads(json.dumps(to_dict(setup)))
    assert read_record(QatSetup, content, "run.json: qat") == setup
    assert content["target"] == "tensorrt"  # as runs of earlier versions have it


def test_a_network_that_cannot_be_tuned_is_refused(tmp_path: Path, faces: FerDataset) -> None:
    spec = ModelSpec("cbam", {"widths": [16, 32], "reduction": 4, "hidden": 16})
    path, src = tmp_path / "cbam.safetensors", tmp_path / "cbam.onnx"
    save_weights(path, build_model(spec).eval(), spec, Preprocessing(), {})
    onnx_from_weights(path, src)
    few = select_calibration(faces, CalibrationRecipe("few", count=8))
    ranges = ranges_from_onnx(src, faces, few, method="minmax", cache=False)
    with pytest.raises(UsageError, match="cannot be fine-tuned for INT8") as raised:
        qat_setup(src, ranges, "onnxruntime")
    assert "without fine-tuning: fer-edge build" in str(raised.value.fix)


def test_a_stopped_fine_tuning_ends_in_the_same_weights(
    weights: Path,
    fp32: Path,
    ranges: Ranges,
    faces: FerDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = faces.take(np.flatnonzero(np.arange(len(faces)) % 5 == 0))
    path = tmp_path / "source.safetensors"
    loaded = load_weights(weights)
    meta = {"dataset": few.info()}
    save_weights(path, loaded.state, loaded.spec, loaded.preprocessing, meta)
    teachers = find_teachers([str(path)], tmp_path, few)
    recipe = qat_recipe(
        WeightsInfo(), ("epochs=1", "optim.batch_size=32", "run.threads=1", "optim.lr=1e-4")
    )
    setup = qat_setup(fp32, ranges, "onnxruntime")

    class Killed(BaseException):
        pass

    class Kill(loop.TrainingReporter):
        def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
            if step == 2:
                raise Killed

    ends = []
    for name in ("whole", "cut"):
        chosen = with_overrides(recipe, ["run.save_minutes=1e-9"])
        run = start_run(tmp_path, name, chosen, few, "x", teachers=teachers, qat=setup)
        if name == "cut":
            with pytest.raises(Killed):
                loop.train(run, chosen, few, reporter=Kill())
        loop.train(run, chosen, few)
        ends.append(load_weights(run.model).state)
    assert ends[0].keys() == loaded.state.keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_from_a_run_to_an_engine_with_the_ranges_it_was_tuned_with(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: FerDataset
) -> None:
    from fer_edge.cli.qat import command
    from fer_edge.runs.folder import RunFolder, create_run

    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "runs"
    # The weights' recipe is the default one; their data are the faces of these tests.
    source = create_run(out, "net", loop.Recipe(), faces.info(), "synthetic:700:3")
    loaded = load_weights(weights)
    meta = {"dataset": faces.info()}
    save_weights(source.model, loaded.state, loaded.spec, loaded.preprocessing, meta)
    source.update(status="finished")

    words = ["net", "--data", "synthetic:700:3", "--out", str(out), "--epochs", "1"]
    words += ["--target", "x86-dgpu-trt8", "--set", "run.threads=2", "--set", "run.replicas=2"]
    words += ["--set", "model.name=compact", "--set", "model.options.widths=[16, 16, 32]"]
    words += ["--set", "model.options.blocks=[1, 1, 1]"]
    CliRunner().invoke(command, words, catch_exceptions=False)
    run = RunFolder(out / "net-qat")
    info = run.info()
    assert info.status == "finished"
    assert info.qat is not None
    assert info.qat.placement == "tensorrt"
    assert [teacher.name for teacher in info.teachers] == ["net"]

    tuned = load_weights(run.model)
    assert tuned.spec == loaded.spec
    assert set(to_dict(tuned.info.qat)) == {"target", "method", "ranges"}
    before, after = (model_from_weights(each.path)[0] for each in (loaded, tuned))
    moved = np.abs(_logits(before, faces.images[:32]) - _logits(after, faces.images[:32]))
    assert 0 < moved.mean() < 0.1, "tuned, not trained anew"

    report = build(
        run.model,
        data=faces,
        target="x86-dgpu-trt8",
        output=tmp_path / "b",
        int8=Int8Options(retries=0),
        gate=GateOptions(speed=False),
    )
    assert report.error is None
    assert report.ranges is not None
    assert report.ranges.method == "qat"
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration["method"] == "qat"

    # The graph that was built answers as the network did in training.
    fake = _fake(run.model, info.qat)
    engine = bundle.file(bundle.artifact(precision="int8", target="tensorrt"))
    images = faces.images[:64]
    exported = step_by_step(load_model(engine), images)
    error = np.abs(_logits(fake, images) - exported).mean()
    assert error < 0.01 * exported.std()

    # Another method is still there for the asking.
    again = build(
        run.model,
        data=faces,
        target="x86-dgpu-trt8",
        int8=Int8Options(method="minmax"),
        output=tmp_path / "c",
        gate=GateOptions(verify=False),
    )
    assert again.ranges is not None
    assert again.ranges.method == "minmax"


def test_a_network_that_learnt_votes_is_fine_tuned_to_its_own_answers(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: FerDataset
) -> None:
    from fer_edge.cli.qat import command
    from fer_edge.data import load
    from fer_edge.data.fer2013 import with_votes
    from fer_edge.runs.folder import RunFolder, create_run

    monkeypatch.setenv("FER_EDGE_CACHE", str(tmp_path / "cache"))
    write_voted(faces, tmp_path)
    data, votes = tmp_path / "faces.npz", tmp_path / "fer2013new.csv"
    voted = with_votes(load(str(data), cache=False), votes)
    recipe = with_overrides(loop.Recipe(), ["loss.target=votes"])
    source = create_run(tmp_path / "runs", "net", recipe, voted.info(), str(data))
    loaded = load_weights(weights)
    meta = {"dataset": voted.info(), "recipe": to_dict(recipe)}
    save_weights(source.model, loaded.state, loaded.spec, loaded.preprocessing, meta)
    source.update(status="finished")
    words = ["net", "--data", str(data), "--votes", str(votes), "--epochs", "1"]
    words += ["--out", str(tmp_path / "runs"), "--target", "onnxruntime"]
    words += ["--set", "model.name=compact", "--set", "model.options.widths=[16, 16, 32]"]
    words += ["--set", "model.options.blocks=[1, 1, 1]", "--set", "run.threads=1"]
    CliRunner().invoke(command, words, catch_exceptions=False)
    run = RunFolder(tmp_path / "runs" / "net-qat")
    assert run.info().status == "finished"
    tuned = load_weights(run.model)
    assert tuned.info.by_votes
    assert tuned.info.qat is not None
    assert tuned.info.recipe is not None
    assert tuned.info.recipe["distill"]["alpha"] == 1, "the teacher's answers alone are learnt"
    changed = [key for key in loaded.state if not torch.equal(tuned.state[key], loaded.state[key])]
    assert changed
    before, after = (model_from_weights(each.path)[0] for each in (loaded, tuned))
    moved = np.abs(_logits(before, faces.images[:32]) - _logits(after, faces.images[:32]))
    assert 0 < moved.mean() < 0.1


def test_no_label_has_a_part_in_fine_tuning() -> None:
    taught = recipe_from_dict({"distill": {"alpha": 0.5, "temperature": 4.0}, "epochs": 2})
    recipe = qat_recipe(WeightsInfo(recipe=taught.to_dict()))
    random = torch.Generator().manual_seed(0)
    logits, other = torch.randn(2, 8, 7, generator=random)
    teacher = other.softmax(1)
    losses = {
        float(distillation_loss(logits, teacher, targets, recipe.distill))
        for targets in (torch.eye(8, 7), torch.eye(7)[[6] * 8])
    }
    assert len(losses) == 1
    assert losses.pop() == pytest.approx(
        float(F.kl_div(logits.log_softmax(1), teacher, reduction="batchmean"))
    )
