"""Search spaces: their content, and the errors of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_edge.errors import RecipeError
from fer_edge.runs.recipe import load_recipe
from fer_edge.training.search.space import load_space, space_names


@pytest.mark.parametrize("name", space_names())
def test_the_spaces_that_come_along_fit_their_recipes(name: str) -> None:
    space = load_space(name)
    assert space.recipe is not None
    recipe = load_recipe(space.recipe)
    space.check(recipe)
    values = {key: each.corners[-1] for key, each in space.parameters.items()}
    assert space.apply(recipe, values) != recipe


def test_report_bs_search_holds_its_start_and_its_outcome() -> None:
    """lr, batch size and weight decay; from 1e-3, 32, 0 to 5e-4, 64, 1e-3."""
    parameters = load_space("soc25").parameters
    assert set(parameters) == {"optim.lr", "optim.batch_size", "optim.weight_decay"}
    rate = parameters["optim.lr"]
    for lr, batch, decay in ((1e-3, 32, 0.0), (5e-4, 64, 1e-3)):
        assert rate.low <= lr <= rate.high
        assert batch in parameters["optim.batch_size"].choices
        assert decay in parameters["optim.weight_decay"].choices


def test_values_of_every_kind_reach_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'epochs = 3\n[space."optim.lr"]\ntype = "float"\nlow = 1e-4\nhigh = 1\nlog = true\n'
        '[space."augment.start_size"]\ntype = "int"\nlow = 24\nhigh = 48\nstep = 8\n'
        '[space."optim.name"]\ntype = "categorical"\nchoices = ["sgd", "adamw"]\n'
        '[space."loss.class_weights"]\ntype = "categorical"\nchoices = [true, false]\n'
        '[space."model.options.widths"]\ntype = "categorical"\nchoices = [[8, 16], [16, 32]]\n'
    )
    space = load_space(path)
    assert (space.name, space.epochs, space.recipe) == ("mine", 3, None)
    values = {key: each.corners[0] for key, each in space.parameters.items()}
    recipe = space.apply(load_recipe("default"), values)
    assert recipe.optim.lr == 1e-4
    assert recipe.augment.start_size == 24
    assert recipe.optim.name == "sgd"
    assert recipe.loss.class_weights is True
    assert recipe.model.options["widths"] == [8, 16]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no search space"),
        ("[space", "is not TOML"),
        ('["optim.lr"]\nlow = 1', "unknown key '\"optim.lr\"'"),
        ("epochs = 0\n[space.seed]\ntype='int'\nlow=0\nhigh=9", "epochs is 0"),
        ("[space.optim.lr]\ntype='float'\nlow=0.1\nhigh=1.0", "space.optim.type is missing"),
        ("[space.seed]\ntype='integer'\nlow=0\nhigh=9", "did you mean 'int'"),
        ("[space.seed]\ntype='int'\nlow=0", "space.seed.high is missing"),
        ("[space.seed]\ntype='int'\nlow=0\nhigh=9\nlogs=true", "unknown key 'space.seed.logs'"),
        ("[space.seed]\ntype='int'\nlow=0\nhigh=9.5", "space.seed.high takes a whole number"),
        ("[space.seed]\ntype='int'\nlow=9\nhigh=1", "not below high"),
        ("[space.seed]\ntype='int'\nlow=0\nhigh=9\nlog=true", "low must be above 0"),
        ("[space.seed]\ntype='int'\nlow=0\nhigh=9\nstep=20", "step that does not fit"),
        ("[space.seed]\ntype='int'\nlow='a'\nhigh=9", "space.seed.low takes a whole number"),
        ("[space.seed]\ntype='categorical'", "space.seed.choices is missing"),
        ("[space.seed]\ntype='categorical'\nchoices=[1]", "a list of 2 or more"),
        (
            "[space.seed]\ntype='categorical'\nchoices=[1, 1]",
            "has the same choice twice",
        ),
    ],
)
def test_a_mistake_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as raised:
        load_space(path)
    assert message in f"{raised.value} {raised.value.fix}"
    assert raised.value.fix


@pytest.mark.parametrize(
    ("key", "high", "message"),
    [("optim.lrr", 1.0, "unknown key 'optim.lrr'"), ("augment.flip", 2.0, "augment.flip is 2.0")],
)
def test_what_the_recipe_does_not_take_is_found_before_any_trial(
    key: str, high: float, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'[space."{key}"]\ntype = "float"\nlow = 0.5\nhigh = {high}\n')
    with pytest.raises(RecipeError, match=f"search space mine: {message}"):
        load_space(path).check(load_recipe("default"))


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError) as raised:
        load_space("soc52")
    assert "did you mean 'soc25'" in str(raised.value.fix)
