"""A training recipe: frozen records read from TOML, overridden by ``--set key=value``.

The defaults of the records are the recipe ``default``; a TOML file names only what differs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import date, time
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from fer_edge.errors import RecipeError, UsageError, unknown
from fer_edge.files import parse_toml, read_toml
from fer_edge.plugins import plug_in, plug_in_names, recipe_files
from fer_edge.records import (
    Count,
    Fraction,
    NonNegative,
    Record,
    Seed,
    keys,
    read_record,
    to_dict,
)

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

Beta = Annotated[float, Meta(ge=0, lt=1)]


class Model(Record, frozen=True):
    """Which network; ``options`` are the model's own (``fer-edge models`` lists the networks)."""

    name: str = "compact"
    options: dict[str, Any] = field(default_factory=dict)


class Optim(Record, frozen=True):
    """``batch_size`` is global: several processes share it. ``clip_norm`` 0 means no clipping.

    ``momentum`` is SGD's and Muon's (Nesterov); ``betas`` are AdamW's. BatchNorm and biases get no
    ``weight_decay``. With Muon, AdamW updates all but hidden matrices (first and last layer,
    vectors), at ``vector_lr``, which follows the same schedule.

    ``sam`` is the rho of sharpness-aware minimisation (Foret et al. 2021, arXiv 2010.01412), 0 is
    off; it begins when ``sam_from`` of the run is done, and doubles the cost of a step.
    """

    name: Literal["sgd", "adamw", "muon"] = "sgd"
    lr: NonNegative = 0.1
    batch_size: Annotated[int, Meta(ge=1)] = 128
    weight_decay: NonNegative = 5e-4
    momentum: Annotated[float, Meta(ge=0, le=0.9999)] = 0.9
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    vector_lr: NonNegative = 0.003
    clip_norm: NonNegative = 0.0
    sam: NonNegative = 0.0
    sam_from: Fraction = 0.0


class Schedule(Record, frozen=True):
    """``cosine``, ``onecycle``, ``plateau``, ``constant`` or ``wsd``, after a linear warm-up.

    ``final`` is the last learning rate as a fraction of ``optim.lr`` (cosine and onecycle);
    ``factor`` and ``patience`` are plateau's, judged by ``stop.monitor``; ``peak`` is the part of
    the run at which onecycle peaks; ``decay`` is the last part of a ``wsd`` run (warm-up, stable,
    decay: Hu et al. 2024, arXiv 2404.06395), in which the rate falls linearly.
    """

    name: Literal["cosine", "onecycle", "plateau", "constant", "wsd"] = "cosine"
    warmup_epochs: NonNegative = 2.0
    final: Fraction = 0.001
    peak: Annotated[float, Meta(ge=0.01, le=0.99)] = 0.3
    decay: Annotated[float, Meta(ge=0.01, le=1)] = 0.4
    factor: Annotated[float, Meta(ge=0.001, le=1)] = 0.5
    patience: Count = 5


class Loss(Record, frozen=True):
    """Cross-entropy; ``class_weights`` are 1/n_c, normalised to sum to the number of classes.

    ``target`` is what is learnt: FER2013's ``label``, or with the votes of FER+ (Barsoum et al.
    2016, arXiv 1608.01041) the class of the ``majority`` ("MV" there) or the shares of the
    ``votes`` ("CEL"). Images without a majority, or without a vote for an expression, are left out.

    ``mixup`` is the alpha of Beta(alpha, alpha) (Zhang et al. 2018, arXiv 1710.09412); 0 is off.
    """

    label_smoothing: Annotated[float, Meta(ge=0, le=0.999)] = 0.1
    class_weights: bool = False
    mixup: NonNegative = 0.0
    target: Literal["label", "majority", "votes"] = "label"


class Distill(Record, frozen=True):
    """How a student learns from the teachers of ``--teacher``; not used without a teacher.

    ``alpha`` T^2 KL(teacher || student) + (1 - ``alpha``) times the loss above, where T is the
    ``temperature`` of both.
    """

    temperature: Annotated[float, Meta(ge=0.1, le=100)] = 2.0
    alpha: Fraction = 0.9


class Ema(Record, frozen=True):
    """Exponential moving average of weights and BatchNorm statistics; ``decay`` 0 is off."""

    decay: Annotated[float, Meta(ge=0, le=0.99999)] = 0.998


class Augment(Record, frozen=True):
    """Random changes of each training image, different in each epoch.

    ``flip`` and ``erase`` are probabilities; ``rotate`` is in degrees either way; ``scale``,
    ``shift`` (part of the side), ``brightness`` and ``contrast`` are fractions either way;
    ``erase_area`` is the largest erased part of an image. ``fill`` replaces the pixels outside
    the image: its mirror image (``reflect``), its ``border``, or the mean gray (``mean``).

    ``warp`` is the part of the images that are rotated, scaled and shifted so. This smooths them,
    and a network that was trained on smooth images only is worse on unchanged images. The other
    images are shifted by whole pixels, and stay sharp.

    Views grow from ``start_size`` pixels (0: full size throughout) to the full size, which they
    reach when ``full_size_at`` of the run is done: small views are faster, and the network
    learns coarse features first (progressive resizing, as in EfficientNetV2, arXiv 2104.00298).
    """

    flip: Fraction = 0.5
    warp: Fraction = 1.0
    rotate: Annotated[float, Meta(ge=0, le=180)] = 12.0
    scale: Annotated[float, Meta(ge=0, le=0.9)] = 0.12
    shift: Annotated[float, Meta(ge=0, le=0.5)] = 0.10
    brightness: Fraction = 0.2
    contrast: Fraction = 0.2
    erase: Fraction = 0.3
    erase_area: Annotated[float, Meta(ge=0.01, le=1)] = 0.2
    fill: Literal["reflect", "border", "mean"] = "reflect"
    start_size: Annotated[int, Meta(ge=0, le=1024)] = 0
    full_size_at: Fraction = 0.6


class Data(Record, frozen=True):
    """``holdout`` is the part of TRAIN that is never trained on, drawn by ``holdout_seed``.

    Pixel-identical images stay together. The confidence is fitted on these images.
    """

    holdout: Annotated[float, Meta(ge=0, le=0.5)] = 0.0
    holdout_seed: Seed = 0


class Stop(Record, frozen=True):
    """``monitor`` (of the PUBLIC split) chooses ``best.safetensors`` and drives ``plateau``.

    Training stops after ``patience`` epochs without improvement by ``min_delta``; 0 never stops.
    """

    monitor: Literal["top1", "macro_f1", "loss"] = "top1"
    patience: Count = 0
    min_delta: NonNegative = 0.0


class Run(Record, frozen=True):
    """How the machine is used.

    ``precision``: auto, fp32, bf16 or fp16. ``compile`` (torch.compile): on, off, or auto, which is
    off until a machine is measured on which it is faster. ``threads`` 0 takes all cores.
    ``replicas``: the number of parts of a batch that a CPU trains in parallel, each with its own
    BatchNorm statistics; 0 takes one for each thread. ``save_minutes``: how much work a kill may
    cost inside a long epoch.
    """

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: Annotated[int, Meta(ge=0, le=4096)] = 0
    replicas: Annotated[int, Meta(ge=0, le=4096)] = 0
    save_minutes: NonNegative = 5.0


class Recipe(Record, frozen=True):
    """All that decides a training run, apart from the data."""

    epochs: Annotated[int, Meta(ge=1)] = 30
    seed: Seed = 0
    model: Model = Model()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    loss: Loss = Loss()
    distill: Distill = Distill()
    ema: Ema = Ema()
    augment: Augment = Augment()
    data: Data = Data()
    stop: Stop = Stop()
    run: Run = Run()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready mapping; :func:`recipe_from_dict` reads it back."""
        return to_dict(self)


def recipe_names() -> tuple[str, ...]:
    """Return the names of the recipes that come with fer-edge."""
    return tuple(sorted(path.stem for path in RECIPES.glob("*.toml")))


_DEEPEST = 16
"""Parts of a key of ``--set``; the deepest real ones have three."""


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by name or TOML path, then apply ``key=value`` overrides in order.

    Raises :class:`RecipeError` that names the file and the key, with the nearest known one.
    """
    path = _recipe_path(name_or_path)
    content = read_toml(path, RecipeError)
    return with_overrides(recipe_from_dict(content, source=str(path)), overrides)


def _refuse_what_json_lacks(content: Any, where: str) -> None:
    """Refuse TOML's dates, nan and inf: runs are kept in JSON, which has none of them.

    ``content`` is nested a few levels deep (:func:`parse_toml`, :func:`with_overrides`).
    """
    if isinstance(content, date | time):
        raise RecipeError(f"{where} is a date or a time: {content}", fix="write it in quotes")
    if isinstance(content, float) and not isfinite(content):
        raise RecipeError(f"{where} is {content}: a setting is a finite number")
    if isinstance(content, str) and not content.isascii():
        try:
            content.encode("utf-8")
        except UnicodeEncodeError:
            raise RecipeError(f"{where} is no text: {content!r}", fix="write it in UTF-8") from None
    if isinstance(content, Mapping):
        for key, value in content.items():
            _refuse_what_json_lacks(key, where)
            _refuse_what_json_lacks(value, f"{where}: {key}")
    elif isinstance(content, list):
        for value in content:
            _refuse_what_json_lacks(value, where)


def _recipe_path(name_or_path: str | Path) -> Path:
    text = str(name_or_path)
    if text in recipe_names():
        return RECIPES / f"{text}.toml"
    path = Path(text)
    if path.is_file():
        return path
    plug = plug_in("recipe", text)
    if plug is not None:
        return next(path for path in recipe_files(plug) if path.stem == text)
    names = [*recipe_names(), *plug_in_names("recipe")]
    raise unknown("recipe", text, names, or_else="the path of a TOML file", error=RecipeError)


def recipe_from_dict(content: Mapping[str, Any], *, source: str = "recipe") -> Recipe:
    """Return the recipe that ``content`` holds; :class:`RecipeError` names a key that is wrong."""
    run = content.get("run")
    if isinstance(run, Mapping) and isinstance(run.get("compile"), bool):
        content = {**content, "run": {**run, "compile": "on" if run["compile"] else "off"}}
    recipe = read_record(Recipe, content, source, RecipeError)
    # The records check all other keys; these may hold anything.
    _refuse_what_json_lacks(recipe.model.options, f"{source}: model: options")
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
        if len(parents) > _DEEPEST:
            raise unknown("key", key, keys(Recipe), where="--set", error=RecipeError)
        table: Any = content
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise unknown("key", key, keys(Recipe), where="--set", error=RecipeError)
        table[last] = _value(text.strip())
    return recipe_from_dict(content, source="--set")


def _value(text: str) -> Any:
    try:
        return parse_toml(f"value = {text}", "--set")["value"]
    except UsageError:
        return text


def recipe_to_toml(recipe: Recipe) -> str:
    """Return the recipe in full as TOML; :func:`load_recipe` reads it back to an equal one."""
    lines: list[str] = []
    tables: list[str] = []
    for name, value in recipe.to_dict().items():
        if not isinstance(value, dict):
            lines.append(f"{name} = {_toml(value)}")
            continue
        options = value.pop("options", None)
        tables += ["", f"[{name}]", *(f"{key} = {_toml(value[key])}" for key in value)]
        if options:
            tables += ["", f"[{name}.options]"]
            tables += [f"{_toml(key)} = {_toml(options[key])}" for key in options]
    return "\n".join(lines + tables) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, dict):
        inner = ", ".join(f"{_toml(key)} = {_toml(value[key])}" for key in value)
        return "{ " + inner + " }"
    # JSON's booleans, finite numbers and texts are TOML's too, but for pairs of surrogates.
    if isinstance(value, str):
        marks = (json.dumps(c)[1:-1] if c <= "\uffff" else f"\\U{ord(c):08X}" for c in value)
        return f'"{"".join(marks)}"'
    return json.dumps(value)
