"""Training images per second: our loop, and a plain loop as in a tutorial.

    python bench/training_throughput.py --data fer2013.zip

The plain loop is FP32, contiguous, with torchvision's transforms, one image at a time, in a
DataLoader (``num_workers`` 0, its default, or one per core). All loops train the compact network
with the same batch size, optimiser and kinds of augmentation, on all cores, from decoded images.
Each loop has its own process. They run some batches in turns; a row is the median of its turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fer_edge.data import FerDataset, load
from fer_edge.models import ModelSpec, build_model
from fer_edge.preprocessing import Preprocessing
from fer_edge.runs.folder import create_run
from fer_edge.runs.recipe import Recipe, load_recipe
from fer_edge.training.loop import recipe_objective, train_step
from fer_edge.training.session import Session


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """TRAIN as PIL images, augmented one at a time by torchvision, with the ``recipe``."""

    def __init__(self, faces: FerDataset, recipe: Recipe) -> None:
        self.images = [Image.fromarray(image) for image in faces.images]
        self.labels = faces.labels.tolist()
        wanted, normal = recipe.augment, Preprocessing()
        self.transform = transforms.Compose(
            [
                transforms.RandomHorizontalFlip(wanted.flip),
                transforms.RandomAffine(
                    wanted.rotate,
                    translate=(wanted.shift, wanted.shift),
                    scale=(1 - wanted.scale, 1 + wanted.scale),
                    interpolation=transforms.InterpolationMode.BILINEAR,
                ),
                transforms.ColorJitter(wanted.brightness, wanted.contrast),
                transforms.ToTensor(),
                transforms.Normalize([normal.mean], [normal.std]),
                transforms.RandomErasing(wanted.erase, scale=(0.02, wanted.erase_area)),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def plain_batches(faces: FerDataset, recipe: Recipe, workers: int) -> Iterator[None]:
    """Train with a plain loop as in a tutorial; yields after each batch."""
    model = build_model(ModelSpec(recipe.model.name, recipe.model.options)).train()
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.optim.lr,
        momentum=recipe.optim.momentum,
        weight_decay=recipe.optim.weight_decay,
        nesterov=True,
    )
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.loss.label_smoothing)
    pictures = Pictures(faces.select("train"), recipe)
    loader = DataLoader(
        pictures, recipe.optim.batch_size, shuffle=True, drop_last=True, num_workers=workers
    )
    while True:
        for images, labels in loader:
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
            yield


def our_batches(faces: FerDataset, recipe: Recipe) -> Iterator[None]:
    """Train with the session and step of fer-edge; yields after each batch."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(
            create_run(Path(folder), None, recipe, faces.info(), "bench"), recipe, faces
        )
        precision = session.machine.precision.name
        print(f"ours: {precision}, {session.replica_count} replicas", file=sys.stderr)
        objective = recipe_objective(session)
        session.replicas.train()
        while True:
            train_step(session, objective).item()
            if session.progress.step == session.batches.steps:
                session.progress.epoch, session.progress.step = session.progress.epoch + 1, 0
            yield


LOOPS = ("plain, num_workers=0", "plain, num_workers=cores", "ours, one replica", "ours")


def serve(options: argparse.Namespace) -> None:
    """Run one loop: each line on stdin starts a turn, which prints the seconds per batch."""
    faces = load(options.data)
    # The schedule must not end during the measurement.
    changes = [f"optim.batch_size={options.batch_size}", "epochs=1000"]
    changes += ["run.replicas=1"] * (options.loop == "ours, one replica")
    recipe = load_recipe("default", changes)
    torch.set_num_threads(options.threads)
    if options.loop.startswith("plain"):
        workers = 0 if options.loop.endswith("=0") else options.threads
        batches = plain_batches(faces, recipe, workers)
    else:
        batches = our_batches(faces, recipe)
    # Each worker of a DataLoader prefetches two batches, so the first of a turn take no time.
    warm_up = 2 * options.threads + 2 if options.loop == LOOPS[1] else 2
    for _ in sys.stdin:
        for _ in range(warm_up):
            next(batches)
        begun = time.perf_counter()
        for _ in range(options.batches):
            next(batches)
        print((time.perf_counter() - begun) / options.batches, flush=True)


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Return images per second of each turn of each loop."""
    speeds: dict[str, list[float]] = {}
    children = {}
    for loop in LOOPS:
        words = [sys.executable, __file__, "--loop", loop]
        for name in ("data", "batch_size", "batches", "threads"):
            words += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
        children[loop] = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    for _ in range(options.rounds):
        for loop, child in children.items():
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("go\n")
            child.stdin.flush()
            speeds.setdefault(loop, []).append(options.batch_size / float(child.stdout.readline()))
    for child in children.values():
        child.communicate()
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("FER_EDGE_DATA", "synthetic:4000"))
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--batches", type=int, default=12, help="timed batches per turn")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each loop")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        serve(options)
        return
    speeds = measure(options)
    base = statistics.median(speeds[LOOPS[0]])
    print(
        f"{Path(options.data).name}, compact, batch {options.batch_size}, "
        f"{options.threads} threads, {options.rounds} turns of {options.batches} batches"
    )
    print(f"{'loop':<26} {'images/s':>9} {'least':>7} {'most':>7} {'x plain':>8}")
    for loop, values in speeds.items():
        median = statistics.median(values)
        cells = f"{median:>9.0f} {min(values):>7.0f} {max(values):>7.0f} {median / base:>8.2f}"
        print(f"{loop:<26} {cells}")


if __name__ == "__main__":
    main()
