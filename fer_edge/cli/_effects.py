"""Options that change nothing for what was asked: refused, since the user thinks they do."""

from __future__ import annotations

from collections.abc import Callable, Collection

import click
from click.core import ParameterSource

from fer_edge.errors import UsageError

__all__ = ["given", "refuse_without_effect"]


def given(wanted: Callable[[str], bool]) -> list[str]:
    """Return the options and arguments on the command line, of the names that are ``wanted``."""
    context = click.get_current_context()
    return [
        str(parameter.human_readable_name.strip("[]. "))
        if isinstance(parameter, click.Argument)
        else max(parameter.opts, key=len)
        for parameter in context.command.params
        if parameter.name is not None
        and wanted(parameter.name)
        and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]


def refuse_without_effect(names: Collection[str], why: str, fix: str) -> None:
    """Raise UsageError if one of these parameters is on the command line; ``why`` it does nothing.

    ``names`` are those of the command's function.
    """
    found = given(lambda name: name in names)
    if found:
        verb = "has" if len(found) == 1 else "have"
        raise UsageError(f"{' and '.join(found)} {verb} no effect: {why}", fix=fix)
