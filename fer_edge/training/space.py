"""A search space: which keys of a recipe are tried, and between which bounds, read from TOML.

::

    recipe = "soc25-baseline"      # what all other keys are taken from; optional
    epochs = 5                     # of each trial; optional

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
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.errors import RecipeError, unknown
from fer_edge.training.config import Recipe, with_overrides

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser, before it joined the standard library
    import tomli as tomllib

if TYPE_CHECKING:
    import optuna

__all__ = ["Parameter", "Space", "load_space", "space_names"]

SPACES = Path(__file__).parent / "spaces"

_KEYS = {
    "float": ("low", "high", "log", "step"),
    "int": ("low", "high", "log", "step"),
    "categorical": ("choices",),
}


@dataclass(frozen=True)
class Parameter:
    """One key of a recipe and the values it may take. Raises RecipeError for bounds that are none.

    ``choices`` are kept as text where they are lists: a study's storage knows scalars only.
    """

    key: str
    type: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if self.type == "categorical":
            if len(self.choices) < 2 or len(set(map(repr, self.choices))) < len(self.choices):
                raise self._error("needs two or more different choices")
            return
        numbers = [self.low, self.high] + ([] if self.step is None else [self.step])
        if any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
            raise self._error("takes numbers for low, high and step")
        if self.type == "int" and any(not isinstance(number, int) for number in numbers):
            raise self._error("is of type int: low, high and step are whole numbers")
        if not self.low < self.high:
            raise self._error(f"has low {self.low:g}, which is not below high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise self._error("has log = true: low must be above 0, and there is no step")
        if self.step is not None and not 0 < self.step <= self.high - self.low:
            raise self._error("has a step that does not fit between low and high")

    def _error(self, text: str) -> RecipeError:
        return RecipeError(
            f"the search space's {self.key} {text}",
            fix='write type = "float" or "int" with low and high, or type = "categorical" with '
            "choices = [...]",
        )

    @property
    def corners(self) -> tuple[Any, ...]:
        """The values at its ends, or all choices."""
        return self.choices or (self.low, self.high)

    def suggest(self, trial: optuna.Trial) -> Any:
        """Ask ``trial`` for a value."""
        if self.type == "categorical":
            return trial.suggest_categorical(self.key, list(self.choices))
        if self.type == "int":
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(
                self.key, int(self.low), int(self.high), step=step, log=self.log
            )
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)


@dataclass(frozen=True)
class Space:
    """What is searched; ``recipe`` and ``epochs`` are suggestions for what stays the same."""

    name: str
    parameters: tuple[Parameter, ...]
    recipe: str | None = None
    epochs: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description of the parameters, for telling two spaces apart."""
        content: dict[str, Any] = json.loads(
            json.dumps({each.key: asdict(each) for each in self.parameters})
        )
        return content

    def apply(self, recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
        """Return ``recipe`` with each key set to its value."""
        return with_overrides(recipe, [f"{key}={_toml(value)}" for key, value in values.items()])

    def check(self, recipe: Recipe) -> None:
        """Raise RecipeError when ``recipe`` has no such key, or does not take its bounds."""
        for parameter in self.parameters:
            for value in parameter.corners:
                try:
                    self.apply(recipe, {parameter.key: value})
                except RecipeError as error:
                    text = str(error).removeprefix("--set: ")
                    raise RecipeError(f"search space {self.name}: {text}", fix=error.fix) from None


def _toml(value: Any) -> str:
    """A text may be a list's; TOML and JSON write numbers, booleans, texts and lists alike."""
    if isinstance(value, str) and value.startswith("["):
        return value
    return json.dumps(value)


def space_names() -> tuple[str, ...]:
    """Return the names of the spaces that come with the package."""
    return tuple(sorted(path.stem for path in SPACES.glob("*.toml")))


def load_space(name_or_path: str | Path) -> Space:
    """Read a space by name or TOML path. Raises RecipeError that names the file and the key."""
    path = _space_path(str(name_or_path))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}", fix="correct that line") from None
    for key in content:
        if key not in ("recipe", "epochs", "space"):
            raise RecipeError(
                f"{path}: unknown key {key!r}",
                fix=f'write it as [space."{key}"], a table of its own',
            )
    table, epochs = content.get("space"), content.get("epochs")
    if not isinstance(table, dict) or not table:
        raise RecipeError(f"{path} has no search space", fix='write e.g. [space."optim.lr"]')
    if epochs is not None and (not isinstance(epochs, int) or epochs < 1):
        raise RecipeError(f"{path}: epochs is {epochs!r}", fix="a whole number from 1")
    parameters = tuple(_parameter(path, key, each) for key, each in table.items())
    recipe = content.get("recipe")
    return Space(path.stem, parameters, None if recipe is None else str(recipe), epochs)


def _parameter(path: Path, key: str, content: Any) -> Parameter:
    if not isinstance(content, dict) or "type" not in content:
        raise RecipeError(
            f"{path}: {key} has no type",
            fix=f'write [space."{key}"], the key in quotes, and type = "float", "int" or '
            '"categorical" below',
        )
    kind = content["type"]
    if kind not in _KEYS:
        raise unknown("type", kind, _KEYS, where=f"{path}: {key}", error=RecipeError)
    for name in content:
        if name != "type" and name not in _KEYS[kind]:
            raise unknown("key", name, _KEYS[kind], where=f"{path}: {key}", error=RecipeError)
    values = dict(content)
    if kind == "categorical":
        choices = values.get("choices")
        if not isinstance(choices, list):
            raise RecipeError(f"{path}: {key} has no choices", fix="write choices = [1, 2]")
        values["choices"] = tuple(
            json.dumps(each) if isinstance(each, list) else each for each in choices
        )
    elif "low" not in values or "high" not in values:
        raise RecipeError(f"{path}: {key} needs low and high", fix="write low = 0.1, high = 1.0")
    return Parameter(key=key, **values)


def _space_path(text: str) -> Path:
    if text in space_names():
        return SPACES / f"{text}.toml"
    path = Path(text)
    if path.is_file():
        return path
    raise unknown(
        "search space", text, space_names(), or_else="the path of a TOML file", error=RecipeError
    )
