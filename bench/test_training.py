"""The times of a training step, its parts, an evaluation and a saved state (compact network).

They use the real FER2013 if FER_EDGE_DATA is set, else synthetic faces. To compare images per
second with a plain loop: ``python bench/training_throughput.py``.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from training_throughput import plain_batches

from fer_edge.data import FerDataset, load
from fer_edge.runs.folder import create_run
from fer_edge.runs.recipe import Recipe, load_recipe
from fer_edge.training.loop import recipe_objective, train_step
from fer_edge.training.scoring import score
from fer_edge.training.session import Session


@pytest.fixture(scope="module")
def faces() -> FerDataset:
    return load(os.environ.get("FER_EDGE_DATA") or "synthetic:2000")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("default", ["epochs=1000"])


@pytest.fixture
def session(faces: FerDataset, recipe: Recipe, tmp_path: Path) -> Iterator[Session]:
    threads = torch.get_num_threads()
    session = Session(create_run(tmp_path, "bench", recipe, faces.info(), "bench"), recipe, faces)
    session.replicas.train()
    yield session
    session.workers.close()
    torch.set_num_threads(threads)


@pytest.mark.benchmark(group="training step, batch 128")
def test_our_step(benchmark: BenchmarkFixture, session: Session) -> None:
    objective = recipe_objective(session)

    def step() -> float:
        session.progress.step %= session.batches.steps
        return train_step(session, objective).item()

    benchmark.extra_info["replicas"] = session.replica_count
    benchmark.extra_info["precision"] = session.machine.precision.name
    benchmark.pedantic(step, rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="training step, batch 128")
def test_plain_step(benchmark: BenchmarkFixture, faces: FerDataset, recipe: Recipe) -> None:
    batches = plain_batches(faces, recipe, workers=0)
    benchmark.pedantic(lambda: next(batches), rounds=5, warmup_rounds=1)


@pytest.mark.benchmark(group="augmentation, batch 128")
def test_our_augmentation(benchmark: BenchmarkFixture, session: Session) -> None:
    steps = itertools.cycle(range(session.batches.steps))
    benchmark.pedantic(
        lambda: session.batches.batch(0, next(steps)).part(0, 1), rounds=20, warmup_rounds=2
    )


@pytest.mark.benchmark(group="augmentation, batch 128")
def test_torchvision_augmentation(
    benchmark: BenchmarkFixture, faces: FerDataset, recipe: Recipe
) -> None:
    from training_throughput import Pictures

    pictures = Pictures(faces.select("train"), recipe)
    benchmark.pedantic(
        lambda: [pictures[i] for i in range(recipe.optim.batch_size)], rounds=5, warmup_rounds=1
    )


@pytest.mark.benchmark(group="epoch end")
def test_scoring_public(benchmark: BenchmarkFixture, session: Session) -> None:
    def run() -> dict[str, float]:
        return score(
            session.average.model,
            *session.public,
            session.preprocessing,
            session.accelerator,
            session.workers,
        )

    benchmark.extra_info["images"] = len(session.public[0])
    benchmark.pedantic(run, rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="epoch end")
def test_saving_the_state(benchmark: BenchmarkFixture, session: Session) -> None:
    train_step(session, recipe_objective(session))
    benchmark.pedantic(session.save, rounds=5, warmup_rounds=1)
