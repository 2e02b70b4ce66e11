"""Recipes: read from TOML, overridden, written back; every mistake is named with its remedy."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_edge.bundle import Bundle
from fer_edge.errors import RecipeError
from fer_edge.files import parse_toml
from fer_edge.pretrained import pretrained_path
from fer_edge.records import keys
from fer_edge.runs.recipe import (
    Recipe,
    load_recipe,
    recipe_from_dict,
    recipe_names,
    recipe_to_toml,
    with_overrides,
)


def test_the_default_recipe_is_the_dataclasses_own() -> None:
    assert load_recipe("default") == Recipe()


def test_the_default_recipe_lists_every_key() -> None:
    text = (Path(load_recipe.__code__.co_filename).parent / "recipes/default.toml").read_text()
    for table, values in Recipe().to_dict().items():
        for key in values if isinstance(values, dict) else [table]:
            assert key == "options" or f"\n{key} = " in text, key


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_survives_toml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["model.options.widths=[16, 32]", "model.options.dropout=0.1"])
    path = tmp_path / "r.toml"
    path.write_text(recipe_to_toml(recipe))
    assert load_recipe(path) == recipe
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_overrides_are_typed_by_the_dataclass() -> None:
    recipe = with_overrides(
        Recipe(),
        [
            "optim.lr=1",
            "optim.name=adamw",
            'stop.monitor="loss"',
            "loss.class_weights=true",
            "optim.betas=[0.8, 0.99]",
            "model.options.blocks=[2, 2]",
            "run.compile=true",
            " seed = 7 ",
            "epochs=5",
            "epochs=6",
        ],
    )
    assert recipe.optim.lr == 1.0
    assert isinstance(recipe.optim.lr, float)
    assert recipe.optim.name == "adamw"
    assert recipe.optim.betas == (0.8, 0.99)
    assert recipe.stop.monitor == "loss"
    assert recipe.loss.class_weights is True
    assert recipe.model.options == {"blocks": [2, 2]}
    assert recipe.run.compile == "on"
    assert (recipe.seed, recipe.epochs) == (7, 6)


@pytest.mark.parametrize(
    ("override", "message", "fix"),
    [
        ("optim.lrr=1", "unknown key 'optim.lrr'", "did you mean 'optim.lr'?"),
        ("lr=1", "unknown key 'lr'", "did you mean 'optim.lr'?"),
        ("optin.lr=1", "unknown key 'optin'", "did you mean 'optim'?"),
        ("optim.lr.x=1", "unknown key 'optim.lr.x'", "did you mean 'optim.lr'?"),
        ("qqqqqq=1", "unknown key 'qqqqqq'", "choose from: epochs,"),
        ("optim.lr=fast", "optim.lr is 'fast'", "takes a number"),
        ("optim.lr=nan", "optim.lr is nan", "takes a number"),
        ("optim.lr=true", "optim.lr is True", "takes a number"),
        ("optim.batch_size=12.5", "optim.batch_size is 12.5", "takes a whole number"),
        ("optim.batch_size=0", "optim.batch_size is 0", "takes a whole number from 1"),
        ("optim.name=3", "optim.name is 3", "takes one of adamw, muon, sgd"),
        ("optim.name=adamm", "unknown optim.name 'adamm'", "did you mean 'adamw'?"),
        (
            "optim.betas=[0.9]",
            "optim.betas is [0.9]",
            "takes a list of 2, each a number",
        ),
        ("optim.betas=[0.9, 1.0]", "optim.betas[1] is 1.0", "a number from 0 to below 1"),
        ("optim=3", "optim is 3", "optim takes a table"),
        ("model.options=3", "model.options is 3", "takes a table"),
        ("loss.class_weights=1", "loss.class_weights is 1", "true or false"),
        ("augment.flip=1.5", "augment.flip is 1.5", "takes a number from 0 to 1"),
        ("epochs", "'epochs' is not key=value", "--set optim.lr=0.05"),
        ("=1", "is not key=value", "--set optim.lr=0.05"),
    ],
)
def test_a_wrong_override_is_named(override: str, message: str, fix: str) -> None:
    with pytest.raises(RecipeError) as raised:
        load_recipe("default", [override])
    assert message in str(raised.value)
    assert fix in str(raised.value.fix)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("epochs = \n")
    with pytest.raises(RecipeError, match=r"mine\.toml is not TOML"):
        load_recipe(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="is not TOML"):
        load_recipe(path)
    path.write_text("[optim]\nlearning_rate = 0.1\n")
    with pytest.raises(RecipeError, match=r"mine\.toml: unknown key 'optim\.learning_rate'"):
        load_recipe(path)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown recipe 'defualt'") as raised:
        load_recipe("defualt")
    assert "did you mean 'default'?" in str(raised.value.fix)


@given(st.text(max_size=30))
def test_no_override_ends_in_anything_but_a_recipe_error(text: str) -> None:
    recipe = Recipe()
    with contextlib.suppress(RecipeError):
        recipe = load_recipe("default", [text])
    assert recipe_from_dict(recipe.to_dict()) == recipe


def test_the_recipe_that_the_shipped_bundle_records_is_read_and_kept() -> None:
    recorded = Bundle.open(pretrained_path("fer2013")).manifest.card.training.recipe
    assert recorded is not None
    recipe = recipe_from_dict(recorded)
    assert recipe_from_dict(recipe.to_dict()) == recipe
    for name, value in recorded.items():
        kept = recipe.to_dict()[name]
        assert kept == value or kept.items() >= value.items()


@pytest.mark.parametrize("key", [key for key in keys(Recipe) if key != "model.options"])
@pytest.mark.parametrize("value", ["nan", "[{}]", "-1", "1e999"])
def test_no_key_takes_nonsense(key: str, value: str) -> None:
    if (key, value) == ("model.name", "-1") or key == "loss.class_weights":
        value = "3"
    with pytest.raises(RecipeError, match=key.replace(".", r"\.")):
        load_recipe("default", [f"{key}={value}"])


VALUES = st.one_of(
    st.sampled_from(
        [
            *("nan", "inf", "-inf", "1e999", "5e-324", "-0.0", "true", "[]", "{}", "''", "value"),
            *("[" * 5000, "[" * 60 + "1" + "]" * 60, "9" * 5000, "9" * 100, "0x7" + "f" * 40),
            *("2020-01-01", "2020-01-01T00:00:00Z", "12:00:00", "[2020-01-01]", "{a=12:00:00}"),
            *("1\n[optim]\nlr=2", "\x00", "\ud800", "[nan]", "{x=nan}", "{a={b={c=1}}}"),
        ]
    ),
    st.text(max_size=30),
    st.floats().map(str),
    st.integers().map(str),
)
KEYS = st.one_of(
    st.sampled_from(sorted(keys(Recipe))),
    st.sampled_from(
        ["model.options.x", "model.options." + "y." * 5000 + "z", "a." * 5000 + "b", ".", "..", ""]
    ),
    st.text(max_size=20),
)


@given(key=KEYS, value=VALUES)
def test_any_override_is_a_recipe_or_an_error(key: str, value: str) -> None:
    """What is taken can be written and read again; everything else is a RecipeError."""
    try:
        recipe = with_overrides(load_recipe("quick"), [f"{key}={value}"])
    except RecipeError:
        return
    text = recipe_to_toml(recipe)
    assert recipe_from_dict(parse_toml(text, "written"), source="written") == recipe


@pytest.mark.parametrize("value", ["2020-01-01", "12:00:00", "{ a = [2020-01-01T00:00:00Z] }"])
def test_dates_are_no_settings(value: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a date or a time") as raised:
        with_overrides(load_recipe("quick"), [f"model.options.since={value}"])
    assert raised.value.fix == "write it in quotes"
    path = tmp_path / "recipe.toml"
    path.write_text(f"[model]\nname = 'compact'\n[model.options]\nsince = {value}\n")
    with pytest.raises(RecipeError, match=r"recipe\.toml: model: options: since"):
        load_recipe(path)
