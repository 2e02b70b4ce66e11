"""A training recipe: frozen dataclasses read from TOML, overridden by ``--set key=value``.

The defaults of the dataclasses are the recipe ``default``; a TOML file names only what differs.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from fer_edge.errors import RecipeError, UsageError, unknown

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the same parser, before it joined the standard library
    import tomli as tomllib

__all__ = [
    "Augment",
    "Data",
    "Distill",
    "Ema",
    "Loss",
    "Model",
    "Optim",
    "Recipe",
    "Run",
    "Schedule",
    "Stop",
    "load_recipe",
    "recipe_from_dict",
    "recipe_names",
    "recipe_to_toml",
    "with_overrides",
]

RECIPES = Path(__file__).parent / "recipes"

T = TypeVar("T")


@dataclass(frozen=True)
class Model:
    """Which network; ``options`` are the model's own (``fer-edge models`` lists the networks)."""

    name: str = "compact"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Optim:
    """``batch_size`` is global: several processes share it. ``clip_norm`` 0 means no clipping.

    ``momentum`` is SGD's and Muon's (Nesterov); ``betas`` are AdamW's. BatchNorm and biases get no
    ``weight_decay``. Muon leaves what is no hidden matrix (first and last layer, vectors) to AdamW
    at ``vector_lr``, which follows the same schedule.

    ``sam`` is the rho of sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412), 0 is
    off; it begins when ``sam_from`` of the run is done, and doubles the cost of a step.
    """

    name: str = "sgd"
    lr: float = 0.1
    batch_size: int = 128
    weight_decay: float = 5e-4
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    vector_lr: float = 0.003
    clip_norm: float = 0.0
    sam: float = 0.0
    sam_from: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """``cosine``, ``onecycle``, ``plateau``, ``constant`` or ``wsd``, after a linear warm-up.

    ``final`` is the last learning rate as a fraction of ``optim.lr`` (cosine and onecycle);
    ``factor`` and ``patience`` are plateau's, judged by ``stop.monitor``; ``peak`` is the part of
    the run at which onecycle peaks; ``decay`` is the last part of a ``wsd`` run (warm-up, stable,
    decay: Hu et al. 2024, arXiv 2404.06395), in which the rate falls on a line.
    """

    name: str = "cosine"
    warmup_epochs: float = 2.0
    final: float = 0.001
    peak: float = 0.3
    decay: float = 0.4
    factor: float = 0.5
    patience: int = 5


@dataclass(frozen=True)
class Loss:
    """Cross-entropy; ``class_weights`` are 1/n_c, normalised to sum to the number of classes.

    ``mixup`` is the alpha of Beta(alpha, alpha) (Zhang et al. 2018, arXiv 1710.09412); 0 is off.
    """

    label_smoothing: float = 0.1
    class_weights: bool = False
    mixup: float = 0.0


@dataclass(frozen=True)
class Distill:
    """How a student learns from the teachers that ``--teacher`` names; without any, nothing.

    ``alpha`` T^2 KL(teacher || student) + (1 - ``alpha``) times the loss above, where T is the
    ``temperature`` of both.
    """

    temperature: float = 2.0
    alpha: float = 0.9


@dataclass(frozen=True)
class Ema:
    """Exponential moving average of weights and BatchNorm statistics; ``decay`` 0 is off."""

    decay: float = 0.998


@dataclass(frozen=True)
class Augment:
    """Random changes of each training image, drawn anew each time.

    ``flip`` and ``erase`` are probabilities; ``rotate`` is in degrees either way; ``scale``,
    ``shift`` (part of the side), ``brightness`` and ``contrast`` are fractions either way;
    ``erase_area`` is the largest erased part of an image. ``fill`` says what lies outside the
    image: its mirror image (``reflect``), its ``border``, or the mean gray (``mean``).

    ``warp`` is the part of the images that are rotated, scaled and shifted so; it smooths them, and
    a network that has seen only smooth images does worse on images as they are. The others are
    shifted by whole pixels, and stay sharp.

    Views grow from ``start_size`` pixels (0: full size throughout) to the full size, which they
    reach when ``full_size_at`` of the run is done: small views cost less and teach the coarse
    things first (progressive resizing, as in EfficientNetV2, arXiv 2104.00298).
    """

    flip: float = 0.5
    warp: float = 1.0
    rotate: float = 12.0
    scale: float = 0.12
    shift: float = 0.10
    brightness: float = 0.2
    contrast: float = 0.2
    erase: float = 0.3
    erase_area: float = 0.2
    fill: str = "reflect"
    start_size: int = 0
    full_size_at: float = 0.6


@dataclass(frozen=True)
class Data:
    """``holdout`` is the part of TRAIN that is never trained on, drawn by ``holdout_seed``.

    Pixel-identical images stay together. The confidence is fitted on these images.
    """

    holdout: float = 0.0
    holdout_seed: int = 0


@dataclass(frozen=True)
class Stop:
    """``monitor`` (of the PUBLIC split) chooses ``best.safetensors`` and drives ``plateau``.

    Training stops after ``patience`` epochs without improvement by ``min_delta``; 0 never stops.
    """

    monitor: str = "top1"
    patience: int = 0
    min_delta: float = 0.0


@dataclass(frozen=True)
class Run:
    """How the machine is used.

    ``precision``: auto, fp32, bf16 or fp16. ``compile`` (torch.compile): on, off, or auto, which is
    off until a machine is measured where it pays. ``threads`` 0 takes all cores. ``replicas``: in
    how many parts a CPU trains a batch side by side, each with BatchNorm statistics of its own; 0
    takes one for each thread. ``save_minutes``: how much work a kill may cost inside a long epoch.
    """

    precision: str = "auto"
    compile: str = "auto"
    threads: int = 0
    replicas: int = 0
    save_minutes: float = 5.0


@dataclass(frozen=True)
class Recipe:
    """All that decides a training run, apart from the data."""

    epochs: int = 30
    seed: int = 0
    model: Model = field(default_factory=Model)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    loss: Loss = field(default_factory=Loss)
    distill: Distill = field(default_factory=Distill)
    ema: Ema = field(default_factory=Ema)
    augment: Augment = field(default_factory=Augment)
    data: Data = field(default_factory=Data)
    stop: Stop = field(default_factory=Stop)
    run: Run = field(default_factory=Run)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; :func:`recipe_from_dict` reads it back."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


_CHOICES: dict[str, tuple[str, ...]] = {
    "optim.name": ("sgd", "adamw", "muon"),
    "schedule.name": ("cosine", "onecycle", "plateau", "constant", "wsd"),
    "augment.fill": ("reflect", "border", "mean"),
    "stop.monitor": ("top1", "macro_f1", "loss"),
    "run.precision": ("auto", "fp32", "bf16", "fp16"),
    "run.compile": ("auto", "on", "off"),
}
_INFINITY = math.inf
_RANGES: dict[str, tuple[float, float]] = {
    "epochs": (1, _INFINITY),
    "seed": (0, 2**63 - 1),
    "optim.lr": (0, _INFINITY),
    "optim.batch_size": (1, _INFINITY),
    "optim.weight_decay": (0, _INFINITY),
    "optim.momentum": (0, 0.9999),
    "optim.vector_lr": (0, _INFINITY),
    "optim.clip_norm": (0, _INFINITY),
    "optim.sam": (0, _INFINITY),
    "optim.sam_from": (0, 1),
    "schedule.warmup_epochs": (0, _INFINITY),
    "schedule.final": (0, 1),
    "schedule.peak": (0.01, 0.99),
    "schedule.decay": (0.01, 1),
    "schedule.factor": (0.001, 1),
    "schedule.patience": (0, _INFINITY),
    "loss.label_smoothing": (0, 0.999),
    "loss.mixup": (0, _INFINITY),
    "distill.temperature": (0.1, 100),
    "distill.alpha": (0, 1),
    "ema.decay": (0, 0.99999),
    "augment.flip": (0, 1),
    "augment.warp": (0, 1),
    "augment.rotate": (0, 180),
    "augment.scale": (0, 0.9),
    "augment.shift": (0, 0.5),
    "augment.brightness": (0, 1),
    "augment.contrast": (0, 1),
    "augment.erase": (0, 1),
    "augment.erase_area": (0.01, 1),
    "augment.start_size": (0, 1024),
    "augment.full_size_at": (0, 1),
    "data.holdout": (0, 0.5),
    "data.holdout_seed": (0, 2**63 - 1),
    "stop.patience": (0, _INFINITY),
    "stop.min_delta": (0, _INFINITY),
    "run.threads": (0, 4096),
    "run.replicas": (0, 4096),
    "run.save_minutes": (0, _INFINITY),
}


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with the package."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or TOML path, then apply ``key=value`` overrides in order.

    Raises :class:`RecipeError` that names the file and the key, with the nearest known one.
    """
    path = _recipe_path(name_or_path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not TOML: {error}", fix="correct that line") from error
    return with_overrides(recipe_from_dict(content, source=str(path)), overrides)


def _recipe_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in recipe_names():
        return RECIPES / f"{text}.toml"
    path = Path(text)
    if path.is_file():
        return path
    raise unknown(
        "recipe", text, recipe_names(), or_else="the path of a TOML file", error=RecipeError
    )


def recipe_from_dict(content: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """Check ``content`` against the dataclasses and return the recipe."""
    recipe = _read(Recipe, content, "", source)
    _check(recipe, source)
    return recipe


def with_overrides(recipe: Recipe, overrides: Iterable[str]) -> Recipe:
    """Return ``recipe`` with each ``key.path=value`` set; values are TOML, or bare text."""
    content = recipe.to_dict()
    for override in overrides:
        key, separator, text = override.partition("=")
        key = key.strip()
        if not separator or not key:
            raise RecipeError(
                f"--set {override!r} is not key=value", fix="write e.g. --set optim.lr=0.05"
            )
        *parents, last = key.split(".")
        place: Any = content
        kind: Any = Recipe
        for i, parent in enumerate(parents):
            known = kind is None or parent in _hints(kind)
            if not known or not isinstance(place.setdefault(parent, {}), dict):
                raise _unknown(".".join(parents[: i + 1]), _keys(), "--set")
            place = place[parent]
            inner = _hints(kind)[parent] if kind is not None else None
            kind = inner if is_dataclass(inner) else None
        place[last] = _value(text.strip())
    return recipe_from_dict(content, source="--set")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _keys() -> list[str]:
    """All dotted keys of a recipe, for suggestions."""
    keys = []
    for name, kind in _hints(Recipe).items():
        keys.append(name)
        if is_dataclass(kind):
            keys += [f"{name}.{inner}" for inner in _hints(kind)]
    return keys


def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _unknown(key: str, known: list[str], source: str) -> UsageError:
    return unknown("key", key, known, where=source, error=RecipeError)


def _read(kind: type[T], content: Any, prefix: str, source: str) -> T:
    if not isinstance(content, Mapping):
        raise RecipeError(
            f"{source}: {prefix[:-1]!r} is {content!r}, not a table",
            fix=f"write [{prefix[:-1]}] and its keys below, or --set {prefix}KEY=VALUE",
        )
    hints = _hints(kind)
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if key not in hints:
            raise _unknown(name, _keys(), source)
        hint = hints[key]
        if is_dataclass(hint) and isinstance(hint, type):
            values[key] = _read(hint, value, f"{name}.", source)
        else:
            values[key] = _typed(name, value, hint, source)
    return kind(**values)


def _typed(name: str, value: Any, hint: Any, source: str) -> Any:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is bool and isinstance(value, bool):
        return value
    if hint is float and number and math.isfinite(value):
        return float(value)
    if hint is int and number and isinstance(value, int):
        return value
    if hint is str and isinstance(value, str):
        return value
    if hint is str and name == "run.compile" and isinstance(value, bool):
        return "on" if value else "off"
    if hint == dict[str, Any] and isinstance(value, Mapping):
        return dict(value)
    if (
        hint == tuple[float, float]
        and isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(item, int | float) and 0 <= item < 1 for item in value)
    ):
        return tuple(float(item) for item in value)
    expected = {
        bool: "true or false",
        float: "a number",
        int: "a whole number",
        str: "a text",
        dict[str, Any]: "a table",
        tuple[float, float]: "two numbers from 0 to below 1",
    }[hint]
    raise RecipeError(f"{source}: {name} is {value!r}", fix=f"{name} takes {expected}")


def _check(recipe: Recipe, source: str) -> None:
    for name, choices in _CHOICES.items():
        value = _lookup(recipe, name)
        if value not in choices:
            raise unknown(name, value, choices, where=source, error=RecipeError)
    for name, (low, high) in _RANGES.items():
        value = _lookup(recipe, name)
        if not low <= value <= high:
            upper = "" if high == _INFINITY else f" to {high:g}"
            raise RecipeError(
                f"{source}: {name} is {value!r}", fix=f"{name} takes {low:g}{upper or ' or more'}"
            )


def _lookup(recipe: Recipe, name: str) -> Any:
    value: Any = recipe
    for part in name.split("."):
        value = getattr(value, part)
    return value


def recipe_to_toml(recipe: Recipe) -> str:
    """Return the recipe in full as TOML; :func:`load_recipe` reads it back to an equal one."""
    lines: list[str] = []
    tables: list[str] = []
    for item in fields(recipe):
        value = getattr(recipe, item.name)
        if is_dataclass(value):
            tables += ["", f"[{item.name}]"]
            inner = asdict(value)  # type: ignore[arg-type]
            options = inner.pop("options", None)
            tables += [f"{key} = {_toml(inner[key])}" for key in inner]
            if options:
                tables += ["", f"[{item.name}.options]"]
                tables += [f"{json.dumps(key)} = {_toml(options[key])}" for key in options]
        else:
            lines.append(f"{item.name} = {_toml(value)}")
    return "\n".join(lines + tables) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(key)} = {_toml(value[key])}" for key in value)
        return "{ " + inner + " }"
    # JSON's texts, booleans and finite numbers are TOML's too.
    return json.dumps(value)
