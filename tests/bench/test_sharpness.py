"""The smoothing of images, and the scores of networks, each alone and all together."""

from __future__ import annotations

from pathlib import Path

import pytest
import sharpness
import torch

from fer_edge.data import load
from fer_edge.runs.folder import create_run
from fer_edge.runs.recipe import load_recipe
from fer_edge.training.loop import train


def test_smoothing_keeps_flat_images_and_spreads_a_point() -> None:
    flat = torch.full((1, 1, 5, 5), 7.0)
    torch.testing.assert_close(sharpness.smoothed(flat, 0.8), flat)
    point = torch.zeros(1, 1, 5, 5)
    point[0, 0, 2, 2] = 1.0
    torch.testing.assert_close(sharpness.smoothed(point, 1.0), point)
    found = sharpness.smoothed(point, 0.8)[0, 0, 1:4, 1:4]
    line = torch.tensor([0.1, 0.8, 0.1])
    torch.testing.assert_close(found, line[:, None] * line)


def test_scores_are_top1_and_likelihood() -> None:
    answers = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.875, 0.0]])
    right, loss = sharpness.scores(answers, torch.tensor([0, 0]))
    assert right == 0.5
    assert loss == pytest.approx(-0.5 * (torch.tensor(0.5).log() + torch.tensor(0.125).log()))


def test_each_network_alone_is_its_runs_own_score_and_all_together_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "synthetic:160"
    names = []
    for seed in (0, 1):
        recipe = load_recipe(
            "default",
            (
                "epochs=1", f"seed={seed}", "model.options.widths=[8,16]",
                "model.options.blocks=[1,1]", "optim.batch_size=32", "run.precision=fp32",
            ),
        )  # fmt: skip
        run = create_run(tmp_path, f"net-{seed}", recipe, {"synthetic": True}, source)
        last = train(run, recipe, load(source))
        names.append((str(run.path), last["public_top1"]))
    sharpness.main([*(name for name, _ in names), "--data", source, "--centre", "1", "0.8"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 2 * 3
    for (_, top1), line in zip(names, lines[1:]):
        assert f"top-1 {100 * top1:.2f} %" in line
    assert [line.split()[2] for line in lines[1:4]] == ["net-0", "net-1", "all"]
