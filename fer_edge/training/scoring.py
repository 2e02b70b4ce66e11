"""The three scores on the PUBLIC split that a training run computes after each epoch."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from fer_edge.preprocessing import Preprocessing
from fer_edge.scores import macro_f1
from fer_edge.training.augment import normalise
from fer_edge.training.replicas import Workers

__all__ = ["score", "scores_from_logits"]


def score(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    preprocessing: Preprocessing,
    accelerator: Accelerator,
    workers: Workers,
    *,
    batch: int = 256,
) -> dict[str, float]:
    """Return ``loss``, ``top1`` and ``macro_f1`` (fractions), single view, in fp32.

    ``images`` u8[N,1,H,W] and ``labels`` i64[N] or f32[N,C]; processes share the images, all get
    the result.
    """

    @torch.no_grad()
    def logits_of(rows: Tensor) -> Tensor:
        view = normalise(images[rows], preprocessing)
        logits: Tensor = model(view.contiguous(memory_format=torch.channels_last))
        return logits

    share = -(-len(images) // accelerator.num_processes)
    first = share * accelerator.process_index
    # The last process may have fewer images: it repeats the last one, and the end is cut off.
    rows = torch.arange(first, first + share, device=images.device).clamp(max=len(images) - 1)
    parts = workers.map(logits_of, torch.split(rows, batch))
    logits = accelerator.gather(torch.cat(parts))
    assert isinstance(logits, Tensor)
    return scores_from_logits(logits[: len(images)], labels)


def scores_from_logits(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the scores of ``logits`` f32[N,C] for ``labels`` i64[N], as in ``verify``.

    A label from C on is of a class that the network does not have: it counts as wrong, and the loss
    leaves it out. ``labels`` f32[N,C] are shares of votes: the loss is the cross-entropy with them,
    and the class with the largest share is the label.
    """
    classes = logits.shape[1]
    predicted = logits.argmax(1)
    if labels.is_floating_point():
        scores = scores_from_logits(logits, labels.argmax(1))
        return {**scores, "loss": float(F.cross_entropy(logits, labels))}
    rows = max(classes, int(labels.max()) + 1)
    confusion = torch.bincount(labels * classes + predicted, minlength=rows * classes)
    counts = confusion.view(rows, classes).cpu().numpy()
    known = labels < classes
    return {
        "loss": float(F.cross_entropy(logits[known], labels[known])),
        "top1": float(counts.trace() / counts.sum()),
        "macro_f1": macro_f1(counts),
    }
