"""The votes that belong to a network: those it was trained on, found again for its build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fer_edge.errors import UsageError
from fer_edge.provenance import WeightsInfo

if TYPE_CHECKING:
    from fer_edge.data import FerDataset

__all__ = ["with_training_votes"]


def with_training_votes(
    dataset: FerDataset, info: WeightsInfo, run: Path | None, votes: str | Path | None = None
) -> FerDataset:
    """Return ``dataset`` with the votes that a network learnt, or with the file ``votes``.

    ``run`` is the folder of the network's run, whose ``run.json`` names the file of votes. A
    network that learnt FER2013's labels needs no votes. ``dataset`` is returned unchanged if no
    file is named or found. UsageError if the file is not the one that the network learnt.
    """
    from fer_edge.data.fer2013 import with_votes

    learnt = info.dataset.votes if info.by_votes else None
    if votes is None and dataset.voters is None and info.by_votes:
        votes = _recorded(run)
    if votes is not None:
        dataset = with_votes(dataset, votes)
    if learnt is not None and dataset.voters is not None and dataset.voters.sha256 != learnt:
        raise UsageError(
            f"{dataset.voters.source} is not the file of votes that the network learnt "
            f"({learnt[:12]})",
            fix="give that file with --votes",
        )
    return dataset


def _recorded(run: Path | None) -> Path | None:
    from fer_edge.runs.folder import RunFolder

    if run is None or not (run / "run.json").is_file():
        return None
    recorded = RunFolder(run).info().votes
    return Path(recorded) if recorded and Path(recorded).is_file() else None
