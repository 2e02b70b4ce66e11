"""Distillation: the loss, who teaches which image, and a run that finds its teachers again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fixtures_training import TINY, Recorder, same, weights_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.functional import one_hot

from fer_edge.build.card import model_card
from fer_edge.data import FerDataset, apply_resplit, load
from fer_edge.data.dataset import dataset_from_rows, image_keys
from fer_edge.data.resplit import Resplit, folds, recorded_resplit
from fer_edge.errors import FerEdgeError, IntegrityError, UsageError
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.folding import folded
from fer_edge.models.weights import load_weights, model_from_weights, save_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.provenance import WeightsInfo
from fer_edge.records import to_dict
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.recipe import Distill, Recipe
from fer_edge.training.batches import Batches, Sources
from fer_edge.training.distill import Distillation, StudentImages, distillation_loss
from fer_edge.training.loop import TrainingReporter, train
from fer_edge.training.losses import cross_entropy
from fer_edge.training.teachers import find_teachers, public_info

TinyRecipe = Callable[..., Recipe]
NewRun = Callable[..., RunFolder]
PREPROCESSING = Preprocessing()
TINY_NET = {"widths": [8, 16], "blocks": [1, 1]}


def _weights(
    path: Path,
    dataset: FerDataset,
    seed: int,
    *,
    size: int = 48,
    preprocessing: Preprocessing = PREPROCESSING,
    **more: Any,
) -> Path:
    """Write a network with random weights, which has opinions of its own."""
    torch.manual_seed(seed)
    spec = ModelSpec("compact", TINY_NET, size=size)
    model = build_model(spec)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()  # type: ignore[union-attr, operator]
        model.head.weight.normal_()  # type: ignore[union-attr, operator]
    meta = {"dataset": dataset.info(), "metrics": {"public_top1": 0.5}, **more}
    save_weights(path, model, spec, preprocessing, meta)
    return path


def _fold_folder(root: Path, splits: Sequence[Resplit], dataset: FerDataset) -> Path:
    for i, split in enumerate(splits):
        folder = root / f"any-{9 - i}"
        run = create_run(root, folder.name, Recipe(), dataset.info(), "synthetic:160")
        run.update(status="finished")
        _weights(folder / "model.safetensors", apply_resplit(split, dataset), seed=i)
    return root


def _view(count: int = 6, size: int = 48) -> Tensor:
    view = torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))
    return view.contiguous(memory_format=torch.channels_last)


def _unmixed(rows: Sequence[int]) -> Sources:
    return Sources(torch.tensor(rows)[:, None], (1.0,))


@torch.no_grad()
def _answer(path: Path | str, view: Tensor, temperature: float) -> Tensor:
    model, _ = model_from_weights(path)
    answer: Tensor = (model(view) / temperature).softmax(1)
    return answer


def test_the_loss_is_the_published_one() -> None:
    torch.manual_seed(0)
    logits, other = torch.randn(5, 7), torch.randn(5, 7)
    targets = torch.randn(5, 7).softmax(1)
    recipe = Distill(temperature=3.0, alpha=0.7)
    p, q = (other / 3).softmax(1), (logits / 3).softmax(1)
    divergence = (p * (p / q).log()).sum(1).mean()
    expected = 0.7 * 9 * divergence + 0.3 * F.cross_entropy(logits, targets)
    torch.testing.assert_close(distillation_loss(logits, p, targets, recipe), expected)

    only_labels = distillation_loss(logits, p, targets, Distill(3.0, alpha=0.0))
    torch.testing.assert_close(only_labels, cross_entropy(logits, targets))


def test_a_student_that_agrees_has_nothing_to_learn() -> None:
    logits = torch.randn(4, 7, requires_grad=True)
    teacher = (logits.detach() / 2).softmax(1)
    distillation_loss(logits, teacher, teacher, Distill(2.0, alpha=1.0)).backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_an_ensemble_is_the_mean_of_its_probabilities(faces: FerDataset, tmp_path: Path) -> None:
    paths = [_weights(tmp_path / f"{i}.safetensors", faces, i) for i in range(3)]
    teachers = find_teachers([str(path) for path in paths], tmp_path, faces)
    ask = Distillation(teachers, Distill(temperature=4.0), Preprocessing())
    found = ask.probabilities(_view(), _unmixed(range(6)))
    each = torch.stack([_answer(path, _view(), 4.0) for path in paths])
    torch.testing.assert_close(found, each.mean(0), rtol=1e-4, atol=1e-5)
    assert float(each.std(0).max()) > 0.05, "they do differ"


def test_a_teacher_gets_the_view_in_its_own_terms(faces: FerDataset, tmp_path: Path) -> None:
    own = Preprocessing(mean=0.4, std=0.5)
    path = _weights(tmp_path / "t.safetensors", faces, 0, size=64, preprocessing=own)
    ask = Distillation(find_teachers([str(path)], tmp_path, faces), Distill(), Preprocessing())
    pixels = torch.rand(2, 1, 48, 48)
    view = (pixels - Preprocessing().mean) / Preprocessing().std
    theirs = F.interpolate((pixels - 0.4) / 0.5, (64, 64), mode="bilinear", antialias=True)
    found = ask.probabilities(view, _unmixed([0, 1]))
    torch.testing.assert_close(found, _answer(path, theirs, 2.0), rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def twins(faces: FerDataset) -> FerDataset:
    """The faces with the first TRAIN image standing there twice."""
    first = faces.select("train").take([0])
    return dataset_from_rows(
        np.concatenate([faces.images, first.images]),
        np.concatenate([faces.labels, first.labels]),
        np.concatenate([faces.split, first.split]),
        [*faces.ids, "zz-twin"],
        source="twins",
        synthetic=True,
    )


def test_out_of_fold_no_network_teaches_what_it_was_fitted_to(
    twins: FerDataset, tmp_path: Path
) -> None:
    folder = _fold_folder(tmp_path / "oof", folds(3), twins)
    teachers = find_teachers(["oof"], tmp_path, twins)
    assert [each.fold for each in teachers] == [1, 2, 3]
    assert {each.name for each in teachers} == {"oof"}
    train_set = twins.select("train")
    images = torch.from_numpy(train_set.images)[:, None]
    ask = Distillation(
        teachers, Distill(2.0), Preprocessing(), student=StudentImages(twins, images)
    )

    answers = {}  # by the keys of the images that the network was fitted to
    view = _view(1)
    for path in sorted(folder.glob("*/model.safetensors")):
        split = recorded_resplit(load_weights(path).info.dataset)
        assert split is not None
        fitted = apply_resplit(replace(split, of=""), twins).select("train")
        answers[frozenset(image_keys(fitted.images).tolist())] = _answer(path, view, 2.0)
    keys = image_keys(train_set.images).tolist()
    for row in (0, 1, 17, len(train_set) - 1):
        (expected,) = (each for fitted, each in answers.items() if keys[row] not in fitted)
        torch.testing.assert_close(
            ask.probabilities(view, _unmixed([row])), expected, rtol=1e-4, atol=1e-5
        )
    many = torch.cat([view] * len(train_set))
    together = ask.probabilities(many, _unmixed(range(len(train_set))))
    assert len(torch.unique(together.round(decimals=4), dim=0)) == 3
    torch.testing.assert_close(together.sum(1), torch.ones(len(train_set)))

    # Under mixup each network speaks for its image.
    alone = [ask.probabilities(view, _unmixed([row]))[0] for row in range(len(train_set))]
    pair = next(row for row in range(1, 99) if not torch.allclose(alone[0], alone[row], atol=1e-3))
    mixed = ask.probabilities(view, Sources(torch.tensor([[0, pair]]), (0.75, 0.25)))
    expected = (0.75 * alone[0] + 0.25 * alone[pair])[None]
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_sources_say_what_a_view_is_made_of(
    faces: FerDataset, tiny: TinyRecipe, mixup: float
) -> None:
    still = [f"augment.{key}=0" for key in ("flip", "rotate", "scale", "shift", "erase")]
    recipe = tiny(f"loss.mixup={mixup}", "augment.brightness=0", "augment.contrast=0", *still)
    train_set = faces.select("train")
    images = torch.from_numpy(train_set.images)[:, None]
    labels = torch.from_numpy(train_set.labels).long()
    batch = Batches(images, one_hot(labels, 7).float(), recipe, Preprocessing()).batch(1, 1)
    for part in range(2):
        view, _ = batch.part(part, 2)
        rows, shares = batch.sources(part, 2)
        assert sum(shares) == pytest.approx(1)
        normal = torch.from_numpy(Preprocessing().normalise(train_set.images[:, None]))
        made = sum(share * normal[rows[:, k]] for k, share in enumerate(shares))
        torch.testing.assert_close(view, made, rtol=1e-4, atol=1e-4)


class _Stop(TrainingReporter):
    def step(self, epoch: int, step: int, loss: float, images_per_s: float) -> None:
        if (epoch, step) == (2, 1):
            raise _Killed


class _Killed(BaseException):
    pass


def test_a_run_with_teachers_resumes_only_with_the_same_ones(
    faces: FerDataset, tiny: TinyRecipe, tmp_path: Path
) -> None:
    recipe = tiny("run.threads=2", "run.replicas=2", "distill.alpha=0.5")
    path = _weights(tmp_path / "big.safetensors", faces, 1)
    _fold_folder(tmp_path / "oof", folds(2), faces)
    found = find_teachers([str(path), "oof"], tmp_path, faces)

    def new(name: str, teachers: Any = found) -> RunFolder:
        where = faces.info()
        return create_run(tmp_path, name, recipe, where, "synthetic:160", teachers=teachers)

    whole, cut, plain = new("whole"), new("cut"), new("plain", [])
    train(whole, recipe, faces)
    train(plain, recipe, faces)
    with pytest.raises(_Killed):
        train(cut, recipe, faces, reporter=_Stop())

    content = path.read_bytes()
    path.unlink()
    with pytest.raises(UsageError, match=r"big\.safetensors does not exist any more"):
        train(cut, recipe, faces)
    _weights(path, faces, 2)
    with pytest.raises(IntegrityError, match="is not the one"):
        train(cut, recipe, faces)
    path.write_bytes(content)
    recorder = Recorder()
    train(cut, recipe, faces, reporter=recorder)
    assert recorder.overviews[0].first_epoch == 2
    assert same(weights_of(cut), weights_of(whole))
    assert not same(weights_of(plain), weights_of(whole)), "the teachers had a say"

    told = load_weights(whole.model).info.teachers
    assert [each.sha256 for each in told] == [each.sha256 for each in found]
    assert to_dict(told[0]) == {
        "name": "big", "model": "compact", "public_top1": 0.5, "sha256": found[0].sha256,
    }  # fmt: skip
    assert [each.fold for each in told] == [None, 1, 2]
    assert not load_weights(plain.model).info.teachers
    assert whole.info().teachers == found


def test_what_is_no_teacher_is_refused(faces: FerDataset, tmp_path: Path) -> None:
    def refused(match: str, *names: str) -> None:
        with pytest.raises(UsageError, match=match) as raised:
            find_teachers(names, tmp_path, faces)
        assert raised.value.fix

    good = str(_weights(tmp_path / "good.safetensors", faces, 0))
    refused("good is given twice", good, good)
    refused("there is no run, .* 'nowhere'", "nowhere")

    other = load("synthetic:160:7")
    refused("not to TRAIN of synthetic:160", str(_weights(tmp_path / "o.safetensors", other, 0)))
    pooled = apply_resplit(Resplit("80/10/10"), faces)
    refused("not to TRAIN of synthetic:160", str(_weights(tmp_path / "p.safetensors", pooled, 0)))

    _fold_folder(tmp_path / "missing", folds(3)[:2], faces)
    refused("not all the folds of one cross-validation: fold 1 of 3", "missing")
    _fold_folder(tmp_path / "mixed", [folds(2)[0], folds(2, seed=1)[1]], faces)
    refused("not all the folds of one", "mixed")
    _fold_folder(tmp_path / "naive", folds(2, duplicates_across=True), faces)
    refused("naive", "naive")

    run = create_run(tmp_path, "busy", Recipe(), faces.info(), "synthetic:160")
    _weights(run.model, faces, 3)
    refused("busy is running, not finished", "busy")
    run.update(status="finished")
    assert find_teachers(["busy"], tmp_path, faces)[0].name == "busy"
    with run.locked():
        refused("busy is still being trained", "busy")


def test_a_teacher_says_which_part_of_train_it_has_not_seen(
    faces: FerDataset, tiny: TinyRecipe, tmp_path: Path
) -> None:
    recipe = tiny("data.holdout=0.2", "data.holdout_seed=6").to_dict()
    path = _weights(tmp_path / "t.safetensors", faces, 0, recipe=recipe)
    (teacher,) = find_teachers([str(path)], tmp_path, faces)
    assert (teacher.holdout, teacher.holdout_seed) == (0.2, 6)
    told = to_dict(public_info(teacher))
    assert "path" not in told

    def protocol(*teachers: dict[str, Any]) -> str:
        made = WeightsInfo.from_dict({"recipe": recipe, "teachers": teachers})
        return "\n".join(model_card(synthetic=True, weights=made)["protocol"])

    assert "abstain threshold alone\n" in protocol(told)
    other = {**told, "name": "other", "holdout_seed": 7}
    whole = {"name": "whole", "sha256": "a" * 64}
    text = protocol(told, other, whole, whole)
    assert "threshold alone; but teachers were fitted to it: other, whole\n" in text
    assert "answers of teachers (t, other, whole)" in text


def test_one_fold_alone_is_an_ordinary_teacher(faces: FerDataset, tmp_path: Path) -> None:
    folder = _fold_folder(tmp_path / "oof", folds(2), faces)
    (one,) = find_teachers([str(folder / "any-9" / "model.safetensors")], tmp_path, faces)
    assert one.fold is None
    assert one.public_top1 is None, "its PUBLIC is a part of TRAIN"


def test_folding_leaves_the_answers_and_no_batchnorm(faces: FerDataset, tmp_path: Path) -> None:
    model, _ = model_from_weights(_weights(tmp_path / "t.safetensors", faces, 0))
    quick = folded(model, _view(2))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in quick.modules())
    with torch.no_grad():
        torch.testing.assert_close(quick(_view()), model(_view()), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_folded_stays_as_it_is() -> None:
    class Twice(nn.Module):
        """One convolution, two BatchNorms behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one, self.two = nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.BatchNorm2d(1)
            nn.init.constant_(self.two.weight, 5)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.one(self.conv(x)) + self.two(self.conv(x))
            return y

    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    for model in (Twice().eval(), Branching().eval()):
        assert folded(model, _view(2)) is model


def _cli(*words: str) -> None:
    from fer_edge.cli.train import command

    CliRunner().invoke(command, words, catch_exceptions=False)


def test_the_command_refuses_other_teachers_and_none(
    faces: FerDataset, tiny: TinyRecipe, tmp_path: Path
) -> None:
    words = ["--data", "synthetic:160", "--out", str(tmp_path / "runs")]
    words += [word for each in TINY for word in ("--set", each)]
    with pytest.raises(UsageError, match="there is no teacher") as raised:
        _cli(*words, "--set", "distill.alpha=0.5")
    assert "--teacher" in str(raised.value.fix)

    good, bad = (str(_weights(tmp_path / f"{i}.safetensors", faces, i)) for i in range(2))
    found = find_teachers([good], tmp_path, faces)
    create_run(tmp_path / "runs", "a", tiny(), faces.info(), "synthetic:160", teachers=found)
    with pytest.raises(FerEdgeError, match="started with other teachers: 0"):
        _cli(*words, "--resume", "a", "--teacher", bad)
    moved = Path(good).rename(tmp_path / "0.moved.safetensors")
    _cli(*words, "--resume", "a", "--teacher", str(moved))
    run = RunFolder(tmp_path / "runs" / "a")
    assert run.info().teachers[0].path == str(moved)
    assert run.info().status == "finished"
