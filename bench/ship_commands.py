"""The card's part on training: recipe, seed and the commands that make a run's network again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_edge.models.header import read_header
from fer_edge.provenance import IngredientInfo, TeacherInfo
from fer_edge.runs.cross_validation import CrossValidation
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.info import InitInfo
from fer_edge.runs.recipe import Recipe, load_recipe, recipe_names

__all__ = ["provenance"]


def provenance(run: RunFolder) -> dict[str, Any]:
    """Return the committed recipe that is most similar to the run's, the seed, and all commands.

    The commands reproduce the run. They begin with the runs that it needs: its teachers, the run
    that it started from, or the ingredients of a soup.
    """
    name, _ = _nearest(run.recipe())
    commands: dict[str, None] = {}
    _add_commands(run, commands, set())
    return {"recipe_name": name, "seed": run.recipe().seed, "commands": list(commands)}


def _add_commands(run: RunFolder, commands: dict[str, None], known: set[str]) -> None:
    """Append the commands for ``run``; ``known``: digests of weights that have their commands."""
    if (run.path.parent / "cv.json").is_file():
        commands.setdefault(_folds_command(CrossValidation(run.path.parent)))
        return
    info = run.info()
    # The card of a bundle has the commands that made its weights; a copied weights file does not.
    before: list[InitInfo | TeacherInfo | IngredientInfo] = [*(info.soup or info.teachers)]
    if info.init is not None:
        before = [info.init, *before] if info.init.commands else [*before, info.init]
    for made_from in before:
        if made_from.sha256 in known:
            continue
        known.add(made_from.sha256)
        if isinstance(made_from, InitInfo) and made_from.commands:
            commands.update(dict.fromkeys(made_from.commands))
            continue
        source = RunFolder(Path(made_from.path or "").parent)
        if (source.path / "run.json").is_file() and source.path != run.path:
            _add_commands(source, commands, known)
        else:
            name = made_from.name or _as_named(made_from)
            commands.setdefault(f"# {name}: weights {made_from.sha256[:12]}")
    commands.setdefault(_command(run))


def _command(run: RunFolder) -> str:
    """Return the command that makes ``run`` from its teachers, start or ingredients."""
    info, recipe = run.info(), run.recipe()
    if info.kind == "soup":
        ingredients = map(_as_named, info.soup)
        words = ["fer-edge", "soup", *ingredients, "--name", run.name]
        return shlex.join([*words, "--data", str(info.dataset.source)])
    if info.qat is not None:
        from fer_edge.training.qat import qat_recipe

        learnt = RunFolder(Path(info.teachers[0].path or "").parent)
        base = qat_recipe(read_header(learnt.model).info) if learnt.model.is_file() else recipe
        words = ["fer-edge", "qat", learnt.name, "--target", info.qat.placement]
        changed = list(_changes(base.to_dict(), recipe.to_dict()))
    else:
        name, changed = _nearest(recipe)
        words = ["fer-edge", "train", "--recipe", name, "--seed", str(recipe.seed)]
        for teacher in dict.fromkeys(map(_as_named, info.teachers)):
            words += ["--teacher", teacher]
        if info.init is not None:
            words += ["--init", _as_named(info.init)]
        if info.votes is not None:
            words += ["--votes", Path(info.votes).name]
        resplit = info.dataset.resplit
        if resplit is not None:
            words += ["--split", resplit.name, "--split-seed", str(resplit.seed)]
            words += ["--allow-duplicates-across"] if resplit.duplicates_across else []
    words += _set(changed)
    words += ["--name", run.name, "--data", str(info.dataset.source)]
    return shlex.join(words)


def _folds_command(validation: CrossValidation) -> str:
    info, recipe = validation.info(), validation.recipe()
    name, changed = _nearest(recipe)
    words = ["fer-edge", "train", "--recipe", name, "--seed", str(recipe.seed), *_set(changed)]
    words += ["--folds", str(info.folds), "--split-seed", str(info.seed)]
    words += ["--allow-duplicates-across"] if info.duplicates_across else []
    words += ["--name", info.name, "--data", str(info.dataset.source)]
    return shlex.join(words)


def _set(changed: Sequence[tuple[str, Any]]) -> list[str]:
    return [word for key, value in changed for word in ("--set", f"{key}={json.dumps(value)}")]


def _as_named(made_from: InitInfo | TeacherInfo | IngredientInfo) -> str:
    """Return the option value for a teacher, or for the weights that a run started from."""
    if isinstance(made_from, TeacherInfo) and made_from.fold:
        return made_from.name  # the folder of all folds
    if isinstance(made_from, InitInfo) and made_from.commands:
        return str(made_from.name)
    path = Path(made_from.path or "")
    if path.name == RunFolder(path.parent).model.name:
        return path.parent.name
    inside = (path.parent / "run.json").is_file()
    return f"runs/{path.parent.name}/{path.name}" if inside else path.name


def _nearest(recipe: Recipe) -> tuple[str, list[tuple[str, Any]]]:
    """Return the committed recipe with the fewest different values, and these (not the seed)."""
    return min(
        (
            (name, list(_changes(load_recipe(name).to_dict(), recipe.to_dict())))
            for name in recipe_names()
            # --set can change an option of the network, but cannot remove one.
            if set(load_recipe(name).model.options) <= set(recipe.model.options)
        ),
        key=lambda found: len(found[1]),
    )


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Yield each dotted key, except the seed, that has another value in ``after``."""
    for key, value in after.items():
        if f"{prefix}{key}" == "seed" or before.get(key) == value:
            continue
        if isinstance(value, dict):
            yield from _changes(before.get(key) or {}, value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
