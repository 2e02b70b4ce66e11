"""Which run, bundle or file NAME means, with a note on stderr if the command had to choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from fer_edge.bundle import Bundle
    from fer_edge.runs.find import Found, Wants

__all__ = ["QUIET", "found", "open_bundle", "plain_note"]

QUIET = "fer_edge.quiet"
"""Key of :attr:`click.Context.meta`: the command has ``--quiet``."""


def plain_note(text: str) -> None:
    """Print a note as ``note`` of ``_output`` does, without what that imports (rich)."""
    context = click.get_current_context(silent=True)
    if context is None or not context.meta.get(QUIET):
        click.echo(text, err=True)


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
