"""Which run, bundle, file or detector a NAME means, with a note on stderr of what was chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fer_edge.errors import UsageError
from fer_edge.pipes import say

if TYPE_CHECKING:
    from fer_edge.bundle import Bundle
    from fer_edge.classifier import Classifier
    from fer_edge.runs.find import Found, Wants

__all__ = ["QUIET", "detector_name", "found", "introduce", "open_bundle", "plain_note"]

QUIET = "fer_edge.quiet"
"""Key of :attr:`click.Context.meta`: the command has ``--quiet``."""


def plain_note(text: str) -> None:
    """Print a note as ``note`` of ``output`` does, without what that imports (rich)."""
    context = click.get_current_context(silent=True)
    if context is None or not context.meta.get(QUIET):
        say(text)


def found(name: str | None, root: Path, wants: Wants) -> Found:
    """Return what ``name`` means (:func:`fer_edge.runs.find.find`); print its note on stderr."""
    from fer_edge.runs.find import find

    result = find(name, root, wants)
    if result.note is not None:
        plain_note(result.note)
    return result


def open_bundle(
    name: str | None, root: Path, *, check: bool = True, votes: bool | None = None
) -> Bundle:
    """Open the bundle that ``name`` means, or the bundle of a run; None is a pretrained one.

    ``votes``: whether the command scores by votes or by FER2013's labels; None if by neither.
    """
    from fer_edge.bundle import Bundle
    from fer_edge.runs.find import A_BUNDLE

    wants = A_BUNDLE if votes is None else A_BUNDLE.scored_by_votes(votes)
    return Bundle.open(found(name, root, wants).path, check=check)


def detector_name(name: str | None, model: Path | None, **instead: bool) -> str | None:
    """Return the name of the detector to use, or None if no face is looked for.

    ``name`` and ``model`` are the options --detector and --detector-model; ``instead`` are the
    options that rule out a detector, such as ``no_detect``. Without any of them it is the default
    detector; a note says so if there is none. UsageError for options that exclude one another.
    """
    from fer_edge.faces import detect

    given = ["--detector"] if name is not None else []
    given += [f"--{option.replace('_', '-')}" for option, is_given in instead.items() if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude one another", fix="keep one of them")
    if model is not None and name is None:
        raise UsageError(
            "--detector-model needs --detector", fix="name the detector, such as --detector yunet"
        )
    if given and name is None:
        return None
    name = name or detect.default_detector()
    if name is None:
        plain_note(
            "note: no face detector is installed, so each picture is taken as the crop of one "
            f"face; to find faces: {detect.INSTALL}"
        )
    return name


def introduce(classifier: Classifier, more: str = "") -> None:
    """Print which engine answers; ``more`` is appended. A synthetic network is always named."""
    plain_note(
        f"{classifier.bundle.path}: {classifier.backend} {classifier.precision} "
        f"({classifier.provider}), threads {classifier.threads}{more}"
    )
    if classifier.bundle.manifest.synthetic:
        say("this network was trained on synthetic faces; its answers for real faces are not valid")
