"""Score networks on smoothed faces, each network alone and the mean of all.

    python bench/sharpness.py runs/teacher-50 runs/compact-2 --centre 1.0 0.9 0.8

``--centre c`` smooths each image before the network, with the weights ((1-c)/2, c, (1-c)/2) in both
directions; 1 changes nothing. If smoothing improves a network, it was trained on faces that are too
smooth (`augment.warp`). With several networks, the mean of their probabilities is scored too: it is
what they teach as teachers together.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.data import load, resolve_source
from fer_edge.models.weights import model_from_weights
from fer_edge.preprocessing import Preprocessing
from fer_edge.runs.find import A_RUN, find
from fer_edge.runs.folder import RunFolder


def smoothed(images: Tensor, centre: float) -> Tensor:
    """Return ``images``, f32[N, 1, H, W], mirrored at their borders and smoothed."""
    side = (1 - centre) / 2
    line = torch.tensor([side, centre, side])
    return F.conv2d(
        F.pad(images, (1, 1, 1, 1), mode="reflect"), torch.outer(line, line)[None, None]
    )


@torch.no_grad()
def probabilities(
    model: nn.Module, images: Tensor, preprocessing: Preprocessing, batch: int = 256
) -> Tensor:
    """Return f32[N, 7] of ``images``, f32[N, 1, H, W] from 0 to 255."""
    view = (images / 255 - preprocessing.mean) / preprocessing.std
    return torch.cat([model(part).float().softmax(1) for part in torch.split(view, batch)])


def scores(answers: Tensor, labels: Tensor) -> tuple[float, float]:
    """Return top-1 and the mean negative log-likelihood of ``answers``, f32[N, 7]."""
    right = (answers.argmax(1) == labels).float().mean()
    likelihood = answers[torch.arange(len(labels)), labels].clamp_min(1e-9)
    return float(right), float(-likelihood.log().mean())


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line per network and value of ``--centre``."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", help="runs, by name or folder")
    parser.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
    parser.add_argument("--split", default="public", choices=("public", "train"))
    parser.add_argument("--every", type=int, default=1, help="use only every n-th image")
    parser.add_argument("--centre", type=float, nargs="+", default=[1.0, 0.9, 0.8, 0.7])
    options = parser.parse_args(argv)
    part = load(resolve_source(options.data)).select(options.split)
    part = part.take(np.arange(0, len(part), options.every))
    labels = torch.tensor(part.labels, dtype=torch.int64)
    images = torch.tensor(part.images, dtype=torch.float32).unsqueeze(1)
    networks = {}
    for name in options.runs:
        run = RunFolder(find(name, wants=A_RUN).path)
        networks[run.name] = model_from_weights(run.model)
    print(f"{len(labels):,} images of {options.split.upper()}")
    for centre in options.centre:
        views = smoothed(images, centre)
        answers = {
            name: probabilities(model, views, weights.preprocessing)
            for name, (model, weights) in networks.items()
        }
        if len(answers) > 1:
            answers["all together"] = torch.stack(list(answers.values())).mean(0)
        for name, each in answers.items():
            top1, loss = scores(each, labels)
            print(f"centre {centre:.2f}  {name:24} top-1 {100 * top1:.2f} %  NLL {loss:.4f}")


if __name__ == "__main__":
    main()
