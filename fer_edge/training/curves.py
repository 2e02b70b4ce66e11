"""The learning curves of a run, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fer_edge.files import atomic_path

__all__ = ["plot_curves"]


def plot_curves(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Write a PNG of loss, accuracy and learning rate over the epochs of ``rows`` (the history)."""
    epochs = [row["epoch"] for row in rows]
    # A Figure of its own, not pyplot's: no display, no global state.
    figure = Figure(figsize=(12, 3.6), dpi=110, layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    marker = "." if len(epochs) < 60 else ""
    loss.plot(epochs, [row["train_loss"] for row in rows], marker=marker, label="train, augmented")
    loss.plot(epochs, [row["public_loss"] for row in rows], marker=marker, label="PUBLIC, averaged")
    loss.set(title="Cross-entropy", xlabel="epoch")
    for key, name in (("public_top1", "top-1"), ("public_macro_f1", "macro-F1")):
        values = [100 * row[key] for row in rows]
        accuracy.plot(epochs, values, marker=marker, label=f"{name} {values[-1]:.2f} %")
    accuracy.set(title="PUBLIC, averaged weights, single view", xlabel="epoch", ylabel="%")
    rate.plot(epochs, [row["lr"] for row in rows], marker=marker, color="tab:gray")
    rate.set(title="Learning rate at the epoch's end", xlabel="epoch")
    for axes in (loss, accuracy, rate):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.legend()
    accuracy.legend()
    figure.suptitle(title)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
