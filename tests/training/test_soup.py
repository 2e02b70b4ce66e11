"""Model soups: the mean of weights, what may be averaged, and a run like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from fixtures_training import TINY, same, weights_of

from fer_edge.build.card import model_card
from fer_edge.cli import main
from fer_edge.cli.soup import command
from fer_edge.data import FerDataset, load
from fer_edge.errors import UsageError
from fer_edge.models.weights import load_weights, model_from_weights
from fer_edge.runs.folder import RunFolder, create_run
from fer_edge.runs.recipe import Recipe
from fer_edge.training.loop import train
from fer_edge.training.soup import find_ingredients, make_soup, mean_state

TinyRecipe = Callable[..., Recipe]
Trained = Callable[..., RunFolder]


@pytest.fixture
def trained(tmp_path: Path, faces: FerDataset, tiny: TinyRecipe) -> Trained:
    """Train a tiny network on synthetic faces, below the test's own folder."""

    def make(name: str, *overrides: str) -> RunFolder:
        recipe = tiny("epochs=1", "run.threads=1", *overrides)
        run = create_run(tmp_path / "runs", name, recipe, faces.info(), "synthetic:160")
        train(run, recipe, faces)
        return run

    return make


def test_the_mean_of_states() -> None:
    ones = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    twos = {"w": torch.tensor([3.0, 8.0]), "n": torch.tensor(9)}
    mean = mean_state([ones, twos])
    assert torch.equal(mean["w"], torch.tensor([2.0, 5.0]))
    assert torch.equal(mean["n"], torch.tensor(3)), "a counter is no weight"
    mean["n"] += 1
    assert ones["n"] == 3, "and not shared"
    large = {"w": torch.tensor([3e38])}
    assert torch.equal(mean_state([large, large])["w"], large["w"]), "summed in double precision"


def test_a_soup_is_a_finished_run(trained: Trained, faces: FerDataset, tmp_path: Path) -> None:
    one, two = trained("one", "data.holdout=0.1"), trained("two", "seed=1", "data.holdout=0.1")
    root = tmp_path / "runs"
    ingredients = find_ingredients(["one", str(two.path)], root, faces)
    soup = make_soup(root, "soup", ingredients, faces, "synthetic:160")
    found = weights_of(soup)
    assert same(found, mean_state([weights_of(one), weights_of(two)]))
    assert same(found, load_weights(soup.best).state)
    info, weights = soup.info(), load_weights(soup.model)
    assert info.status == "finished"
    assert soup.recipe().data.holdout == 0.1, "held out by both"
    assert [each.name for each in info.soup] == ["one", "two"]
    assert info.soup[0].path == str(one.model)
    assert all(each.path is None for each in weights.info.soup)
    assert info.last == info.best
    assert weights.info.public_top1 == info.last.public_top1
    assert (soup.path / "history.csv").read_text().count("\n") == 2

    model, _ = model_from_weights(soup.model)
    public = faces.select("public")
    view = torch.from_numpy(weights.preprocessing.normalise(public.images[:, None]))
    with torch.no_grad():
        right = model(view).argmax(1) == torch.tensor(public.labels)
    assert info.last.public_top1 == pytest.approx(float(right.float().mean()))

    card = model_card(synthetic=False, weights=weights.info)
    assert "weights are the mean of 2 runs' last epochs: one, two" in card["protocol"]
    with pytest.raises(UsageError, match="cannot be trained"):
        train(soup, soup.recipe(), faces)
    assert same(found, weights_of(soup))


def test_rows_that_one_ingredient_has_seen_are_not_held_out(
    trained: Trained, faces: FerDataset, tmp_path: Path
) -> None:
    trained("one", "data.holdout=0.1")
    trained("two", "data.holdout=0.1", "data.holdout_seed=5")
    root = tmp_path / "runs"
    soup = make_soup(root, "soup", find_ingredients(["one", "two"], root, faces), faces, "x")
    assert soup.recipe().data.holdout == 0


def test_what_has_no_mean_is_refused(trained: Trained, faces: FerDataset, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    trained("one")
    trained("two", "seed=1")
    trained("wide", "model.options.widths=[8, 24]")
    with pytest.raises(UsageError, match="two different runs or more"):
        find_ingredients(["one"], root, faces)
    with pytest.raises(UsageError, match="two different runs"):
        find_ingredients(["one", "one"], root, faces)
    with pytest.raises(UsageError, match="have no mean"):
        find_ingredients(["one", "wide"], root, faces)
    with pytest.raises(UsageError, match="not to TRAIN of synthetic:170"):
        find_ingredients(["one", "two"], root, load("synthetic:170"))
    with pytest.raises(UsageError, match="no run or weights file 'none'"):
        find_ingredients(["one", "none"], root, faces)
    RunFolder(root / "wide").update(status="interrupted")
    with pytest.raises(UsageError, match="interrupted, not finished"):
        find_ingredients(["one", "wide"], root, faces)


def test_the_command(
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trained("one")
    trained("two", "seed=1")
    monkeypatch.chdir(tmp_path)
    words = ["one", "two", "--name", "soup", "--data", "synthetic:160", "--format", "json"]
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    rows = json.loads(result.stdout)
    assert [row["run"] for row in rows] == ["one", "two", "soup"]
    last = RunFolder(tmp_path / "runs" / "soup").info().last
    assert rows[2]["top-1"] == last.public_top1
    assert rows[2]["loss"] == last.public_loss
    assert "next: fer-edge build runs/soup" in result.stderr
    with pytest.raises(SystemExit) as raised:
        main(["soup", *words])
    assert raised.value.code == 2
    assert "soup exists already" in capsys.readouterr().err, "a run is never overwritten"
    with pytest.raises(SystemExit) as raised:
        main(["train", "--resume", "soup", "--data", "synthetic:160"])
    assert raised.value.code == 2
    assert "runs/soup has finished" in capsys.readouterr().err


def test_a_student_may_start_from_a_soup(trained: Trained, tmp_path: Path) -> None:
    trained("one")
    trained("two", "seed=1")
    out = ["--out", str(tmp_path / "runs"), "--data", "synthetic:160"]
    main(["soup", "one", "two", "--name", "soup", *out])
    options = [word for change in (*TINY, "epochs=1") for word in ("--set", change)]
    main(["train", "--init", "soup", "--teacher", "soup", *options, "--name", "next", *out])
    assert RunFolder(tmp_path / "runs" / "next").info().teachers[0].name == "soup"


def test_what_a_run_started_from_can_be_a_part(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = trained("one")
    root = tmp_path / "runs"
    out = ["--out", str(root), "--data", "synthetic:160"]
    options = [word for change in (*TINY, "epochs=1") for word in ("--set", change)]
    main(["train", "--init", "one", *options, "--name", "tuned", *out])
    start = root / "tuned" / "init.safetensors"
    main(["soup", "tuned", str(start), "--name", "soup", *out])
    soup, tuned = RunFolder(root / "soup"), RunFolder(root / "tuned")
    assert same(weights_of(soup), mean_state([weights_of(tuned), weights_of(one)]))
    assert [each.name for each in soup.info().soup] == ["tuned", "init"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as raised:
        main(["soup", str(start), "tuned", "--name", "other", *out])
    assert raised.value.code == 2
    assert "is a weights file" in capsys.readouterr().err
