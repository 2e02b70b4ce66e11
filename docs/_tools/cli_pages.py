"""The reference of the command line, from click's own objects: one page per command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from html import escape

import click

from fer_edge import cli

__all__ = ["pages"]


def _cell(text: str) -> str:
    """Return a text for a cell of a Markdown table, where no character has a meaning."""
    text = re.sub(r"\s+", " ", text).strip()
    return re.sub(r"([\\`*_|\[\]])", r"\\\1", escape(text, quote=False))


def _help(command: click.Command) -> tuple[str, str]:
    """Return the help text in Markdown, and the example."""
    text = inspect.cleandoc(command.help or "").replace("\f", "")
    before, _, example = text.partition("\b\nExample:\n")
    prose = [re.sub(r"\s+", " ", part).strip() for part in before.split("\n\n") if part.strip()]
    # Names and patterns of the help text are no Markdown, but what it has in backticks stays code.
    shown = []
    for part in prose:
        pieces = part.replace("``", "`").split("`")
        shown.append(
            "".join(
                f"`{piece}`" if k % 2 else _cell_in_prose(piece) for k, piece in enumerate(pieces)
            )
        )
    example = "\n".join(line.removeprefix("  ") for line in example.strip("\n").splitlines())
    return "\n\n".join(shown), example.replace("\b", "").strip()


def _cell_in_prose(text: str) -> str:
    lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return lead + _cell(text) + trail if text.strip() else text


def _written(names: str) -> str:
    """Return an option as code that is broken only between its words and its choices."""
    words = [escape(word).replace("|", "&#124;<wbr>") for word in names.split()]
    return " ".join(
        f"<code>{word}</code>" if "<wbr>" in word else f'<code class="word">{word}</code>'
        for word in words
    )


def _options(command: click.Command, context: click.Context) -> str:
    rows = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is None or (isinstance(parameter, click.Option) and parameter.hidden):
            continue
        names, what = record
        if not what:
            continue  # an argument without a text: the line of the usage has its name
        default = ""
        found = re.search(r"\s*\[default: ([^\]]*(?:\[[^\]]*\][^\]]*)*)\]", what)
        if found:
            default = found.group(1).replace("x>=", "at least ")
            what = what.replace(found.group(0), "")
        stands = f" *Default: {_cell(default)}.*" if default else ""
        rows.append(f"| {_written(names)} | {_cell(what)}{stands} |")
    if not rows:
        return ""
    return "\n".join(["| option | meaning |", "|---|---|", *rows])


def _section(command: click.Command, path: str, level: int, parent: click.Context) -> Iterator[str]:
    context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent)
    prose, example = _help(command)
    yield f"{'#' * level} fer-edge {path}\n"
    yield prose + "\n"
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\nfer-edge {path} {usage}\n```\n"
    if example:
        yield f"```bash\n{example}\n```\n"
    yield _options(command, context) + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _section(inner, f"{path} {name}", level + 1, context)


def _deprecated(name: str) -> str:
    rows = [
        f"| `{' '.join(old)}` | `{new.new}` | {new.since} | {new.removed_in} |"
        for old, new in cli.DEPRECATED.items()
        if old[0] == name or (len(old) == 1 and new.new == name)
    ]
    if not rows:
        return ""
    head = "| old name | new name | since | removed in |\n|---|---|---|---|\n"
    return "## Deprecated names\n\n" + head + "\n".join(rows) + "\n"


def pages() -> dict[str, tuple[str, str]]:
    """Return path -> (title in the navigation, Markdown)."""
    top = click.Context(cli.group, info_name="fer-edge", **cli.group.context_settings)
    found = {}
    for name in cli.COMMANDS:
        command = cli.group.get_command(top, name)
        assert command is not None
        text = "\n".join(_section(command, name, 1, top)) + _deprecated(name)
        found[f"reference/cli/{name}.md"] = (name, f'---\ntitle: "fer-edge {name}"\n---\n\n{text}')
    rows = [f"| [`{name}`]({name}.md) | {line} |" for name, (_, line) in cli.COMMANDS.items()]
    index = [
        "# The command line",
        "",
        "This reference is made from the commands themselves: `fer-edge COMMAND --help` prints the "
        "same. Commands that print results take `--format table|json|csv|markdown`. Results go to "
        "stdout, progress and notes to stderr. An error is one line and its fix; "
        "[exit codes](../exit-codes.md). What a `NAME` means: [names](../names.md).",
        "",
        "| command | |",
        "|---|---|",
        *rows,
        "",
        "## Options of every command",
        "",
        _options(cli.group, top),
        "",
    ]
    return {"reference/cli/index.md": ("The command line", "\n".join(index))} | found
