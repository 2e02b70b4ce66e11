"""A search space: which keys of a recipe are tried, and between which bounds, read from TOML.

::

    recipe = "soc25-baseline"      # has the values of all other keys; optional
    epochs = 5                     # per trial; optional

    [space."optim.lr"]
    type = "float"                 # low, high; log = true, or step
    low = 1e-4
    high = 5e-3
    log = true

    [space."optim.batch_size"]
    type = "categorical"           # choices: numbers, texts, booleans or lists
    choices = [32, 64, 128]

    [space."augment.start_size"]
    type = "int"                   # low, high; log = true, or step
    low = 24
    high = 48
    step = 8
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, field

from fer_edge.errors import RecipeError, unknown
from fer_edge.files import read_toml
from fer_edge.records import Finite, Record, read_record, to_dict
from fer_edge.runs.recipe import Recipe, with_overrides

if TYPE_CHECKING:
    import optuna

__all__ = [
    "Choice",
    "FloatRange",
    "IntRange",
    "Parameter",
    "Space",
    "load_space",
    "space_names",
]

SPACES = Path(__file__).parent / "spaces"


class _Range(Record, frozen=True, tag_field="type"):
    """``low`` to ``high``, on a logarithmic scale if ``log``; ``step`` counts from ``low``.

    Raises ValueError for invalid bounds.
    """

    low: Finite
    high: Finite
    log: bool = False
    step: Annotated[float, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"has low {self.low:g}, which is not below high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("has log = true: low must be above 0, and step is not allowed")
        if self.step is not None and self.step > self.high - self.low:
            raise ValueError("has a step that does not fit between low and high")

    @property
    def corners(self) -> tuple[Any, ...]:
        """The lowest and the highest value."""
        return self.low, self.high


class FloatRange(_Range, frozen=True, tag="float"):
    """Numbers."""

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """Let ``trial`` suggest a value of ``key``."""
        return trial.suggest_float(key, self.low, self.high, step=self.step, log=self.log)


class IntRange(_Range, frozen=True, tag="int"):
    """Whole numbers."""

    low: int
    high: int
    log: bool = False
    step: Annotated[int, Meta(ge=1)] | None = None

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """Let ``trial`` suggest a value of ``key``."""
        return trial.suggest_int(key, self.low, self.high, step=self.step or 1, log=self.log)


class Choice(Record, frozen=True, tag_field="type", tag="categorical"):
    """One of several values. Lists are stored as text, since a study stores scalars only."""

    choices: Annotated[tuple[Any, ...], Meta(min_length=2)]

    def __post_init__(self) -> None:
        if len(set(map(repr, self.choices))) < len(self.choices):
            raise ValueError("has the same choice twice")

    @property
    def corners(self) -> tuple[Any, ...]:
        """All choices, lists as text."""
        return tuple(
            json.dumps(choice) if isinstance(choice, list) else choice for choice in self.choices
        )

    def suggest(self, trial: optuna.Trial, key: str) -> Any:
        """Let ``trial`` suggest a value of ``key``."""
        return trial.suggest_categorical(key, list(self.corners))


class _File(Record, frozen=True):
    space: dict[str, FloatRange | IntRange | Choice] = field(default_factory=dict)
    recipe: str | None = None
    epochs: Annotated[int, Meta(ge=1)] | None = None


_FIX = (
    'write [space."optim.lr"], the key in quotes, and below it type = "float" or "int" with low '
    'and high, or type = "categorical" with choices = [...]'
)


Parameter = FloatRange | IntRange | Choice
"""The values to try for one key of the recipe."""


@dataclass(frozen=True)
class Space:
    """The parameters to search; ``recipe`` and ``epochs`` are defaults for the rest."""

    name: str
    parameters: dict[str, Parameter]
    """Key of the recipe -> the values to try."""
    recipe: str | None = None
    epochs: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description of the parameters, to compare two spaces."""
        # Compared with the recorded one: all keys must be present, for every type.
        empty: dict[str, Any] = {"low": 0.0, "high": 0.0, "log": False, "step": None, "choices": []}
        content: dict[str, Any] = {}
        for key, parameter in self.parameters.items():
            content[key] = {"key": key, **empty, **to_dict(parameter)}
            if isinstance(parameter, Choice):
                content[key]["choices"] = list(parameter.corners)
        return content

    def apply(self, recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
        """Return ``recipe`` with each key set to its value."""
        return with_overrides(recipe, [f"{key}={_toml(value)}" for key, value in values.items()])

    def check(self, recipe: Recipe) -> None:
        """Raise RecipeError if ``recipe`` lacks a key or refuses a bound."""
        for key, parameter in self.parameters.items():
            for value in parameter.corners:
                try:
                    self.apply(recipe, {key: value})
                except RecipeError as error:
                    text = str(error).removeprefix("--set: ")
                    raise RecipeError(f"search space {self.name}: {text}", fix=error.fix) from None


def _toml(value: Any) -> str:
    """Return a value as TOML; a text that starts with "[" is a list."""
    if isinstance(value, str) and value.startswith("["):
        return value
    return json.dumps(value)


def space_names() -> tuple[str, ...]:
    """Return the names of the spaces that come with the package."""
    return tuple(sorted(path.stem for path in SPACES.glob("*.toml")))


def load_space(name_or_path: str | Path) -> Space:
    """Read a space by name or TOML path. Raises RecipeError that names the file and the key."""
    path = _space_path(str(name_or_path))
    file = read_record(_File, read_toml(path, RecipeError), str(path), RecipeError, fix=_FIX)
    if not file.space:
        raise RecipeError(f"{path} has no search space", fix=_FIX)
    return Space(path.stem, file.space, file.recipe, file.epochs)


def _space_path(text: str) -> Path:
    if text in space_names():
        return SPACES / f"{text}.toml"
    path = Path(text)
    if path.is_file():
        return path
    raise unknown(
        "search space", text, space_names(), or_else="the path of a TOML file", error=RecipeError
    )
