"""Short trainings on one core, to compare networks and optimisers before a long training.

A probe uses views of ``--side`` pixels, in training and in scoring. The learning rate rises during
the first tenth of the steps and then falls linearly to zero. Use the scores only to rank networks
and optimisers; they are not results::

    taskset -c 0 python bench/probe.py --network compact --optimiser muon --lr 0.05 --epochs 5
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.data import load, resolve_source
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.profile import count_macs, count_parameters
from fer_edge.models.repvgg import RepBlock
from fer_edge.preprocessing import Preprocessing
from fer_edge.runs.recipe import Augment, Optim
from fer_edge.training.augment import augment, draw_augmentation
from fer_edge.training.machine import keep_freed_memory
from fer_edge.training.optim import Average, build_optimizer


class Patches(nn.Module):
    """RepVGG blocks on 4x4 patches: 64 channels, then 128, at a quarter of the image's side."""

    def __init__(self) -> None:
        super().__init__()
        stem = [nn.PixelUnshuffle(4), nn.Conv2d(16, 64, 3, padding=1, bias=False)]
        body = [RepBlock(64, 64, 1) for _ in range(3)] + [RepBlock(64, 128, 2)]
        body += [RepBlock(128, 128, 1) for _ in range(3)]
        self.features = nn.Sequential(*stem, nn.BatchNorm2d(64), nn.ReLU(), *body)
        self.head = nn.Linear(128, 7)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits


def network(name: str) -> nn.Module:
    """Return ``patches``, a model of the package, or ``compact:WIDTHS`` such as 24,48,96,160."""
    if name == "patches":
        return Patches()
    model, _, widths = name.partition(":")
    options = {"widths": [int(width) for width in widths.split(",")]} if widths else {}
    return build_model(ModelSpec(model, options))


@torch.no_grad()
def score(model: nn.Module, images: Tensor, labels: Tensor, side: int) -> tuple[float, float]:
    """Return top-1 and cross-entropy of ``images``, normalised, at ``side`` pixels."""
    small = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)
    logits = torch.cat([model(part) for part in torch.split(small, 256)])
    return float((logits.argmax(1) == labels).float().mean()), float(
        F.cross_entropy(logits, labels)
    )


def command_line() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", help="as for fer-edge train")
    parser.add_argument("--network", default="compact")
    parser.add_argument("--optimiser", default="muon", choices=("sgd", "adamw", "muon"))
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--smoothing", type=float, default=0.1)
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train one probe and print a line per epoch."""
    given = command_line()
    torch.set_num_threads(1)
    keep_freed_memory()
    torch.manual_seed(given.seed)
    dataset, preprocessing = load(resolve_source(given.data)), Preprocessing()
    train, public = dataset.select("train"), dataset.select("public")
    images = torch.tensor(train.images).unsqueeze(1)
    labels = torch.tensor(train.labels, dtype=torch.int64)
    public_images = torch.tensor(preprocessing.normalise(public.images[:, None]))
    public_labels = torch.tensor(public.labels, dtype=torch.int64)

    model = network(given.network)
    macs = count_macs(model, ModelSpec("compact", {}))
    print(f"{given.network}: {count_parameters(model):,} parameters, {macs / 1e6:.1f} MMAC at 48")
    model = model.to(memory_format=torch.channels_last)
    recipe = Optim(
        name=given.optimiser,
        lr=given.lr,
        momentum=given.momentum,
        weight_decay=given.weight_decay,
    )
    optimizer, average = build_optimizer(model, recipe), Average(model, given.ema)
    random = np.random.default_rng(given.seed)
    steps = len(images) // given.batch
    total, done, begun = given.epochs * steps, 0, time.monotonic()
    for epoch in range(given.epochs):
        order, losses = torch.from_numpy(random.permutation(len(images))), 0.0
        for step in range(steps):
            part = done / total
            rate = given.lr * max(1e-3, min((done + 1) / (0.1 * total), 1 - part))
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("lr_scale", 1.0)
            rows = order[step * given.batch : (step + 1) * given.batch]
            draw = draw_augmentation(len(rows), Augment(), random)
            view = augment(images[rows], draw, Augment(), preprocessing, given.side)
            logits = model(view.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, labels[rows], label_smoothing=given.smoothing)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            average.update(model)
            losses, done = losses + float(loss.detach()), done + 1
        top1, entropy = score(average.model, public_images, public_labels, given.side)
        seconds = time.monotonic() - begun
        print(
            f"epoch {epoch + 1}  loss {losses / steps:.4f}  PUBLIC top-1 {100 * top1:.2f} %  "
            f"loss {entropy:.4f}  {done * given.batch / seconds:.0f} images/s  {seconds:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
