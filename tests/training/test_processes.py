"""Several processes train one run by the same code: torchrun on two CPU processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fixtures_training import weights_of

from fer_edge.data import FerDataset
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Recipe, recipe_to_toml
from fer_edge.training.loop import train


@pytest.mark.slow
def test_two_processes_share_each_batch(
    tmp_path: Path,
    faces: FerDataset,
    tiny: Callable[..., Recipe],
    new_run: Callable[..., RunFolder],
) -> None:
    """As two replicas of one process do: the same parts, each with its own BatchNorm statistics.

    Not bitwise: the processes add their gradients up after dividing, the replicas before; and
    DistributedDataParallel keeps the first process's running statistics, where replicas average
    theirs. So momentum 0 of the statistics is not compared, only what is learned.
    """
    recipe = tiny("epochs=1", "run.threads=1")
    (tmp_path / "tiny.toml").write_text(recipe_to_toml(recipe))
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    words += ["-m", "fer_edge", "train", "--recipe", "tiny.toml", "--data", "synthetic:160"]
    result = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "2 processes, each CPU, 1 thread" in result.stderr
    assert result.stderr.count("PUBLIC top-1") == 1, "one process speaks"
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name.startswith("compact-"), "both processes know the name that one has chosen"
    run = RunFolder(path)
    assert run.info().status == "finished"

    replicas = tiny("epochs=1", "run.threads=1", "run.replicas=2")
    alone = new_run(replicas, "alone")
    train(alone, replicas, faces)
    shared, own = weights_of(run), weights_of(alone)
    for name in own:
        if "running" not in name:
            torch.testing.assert_close(shared[name], own[name], rtol=1e-3, atol=1e-4)
    progress = json.loads((run.state / "state.json").read_text())["content"]["progress"]
    loss = json.loads((alone.state / "state.json").read_text())["content"]["progress"]
    assert progress["history"][0]["train_loss"] == pytest.approx(
        loss["history"][0]["train_loss"], rel=1e-4
    )
