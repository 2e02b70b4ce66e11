"""``fer-edge completion``: the script that completes the command line in a shell."""

from __future__ import annotations

import sys

import click

__all__ = ["command"]

_PLACES = {
    "bash": (
        "fer-edge completion bash > ~/.local/share/bash-completion/completions/fer-edge",
        'eval "$(fer-edge completion bash)"',
        "~/.bashrc",
    ),
    "zsh": (
        'fer-edge completion zsh > "${fpath[1]}/_fer-edge"',
        'eval "$(fer-edge completion zsh)"',
        "~/.zshrc, after compinit",
    ),
    "fish": (
        "fer-edge completion fish > ~/.config/fish/completions/fer-edge.fish",
        "fer-edge completion fish | source",
        "~/.config/fish/config.fish",
    ),
}
"""Shell -> (the command that keeps the script, the line for a start-up file, that file)."""


@click.command("completion")
@click.argument("shell", type=click.Choice(list(_PLACES)))
def command(shell: str) -> None:
    """Print a script that completes commands, options and file names in SHELL.

    The script says where it belongs: in a file of its own, or in the file that the shell reads at
    its start.

    \b
    Example:
      fer-edge completion bash > ~/.local/share/bash-completion/completions/fer-edge
      eval "$(fer-edge completion bash)"
    """
    from click.shell_completion import get_completion_class

    from fer_edge.cli import group
    from fer_edge.cli.shared.output import note, print_text

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(group, {}, "fer-edge", "_FER_EDGE_COMPLETE")
    keep, line, file = _PLACES[shell]
    # Not source(): that of bash starts a bash to ask for its version.
    text = script.source_template % script.source_vars()
    # zsh wants its #compdef in the first line, so the words come last.
    print_text(f"{text.strip()}\n\n# To keep it: {keep}\n# Or in {file}: {line}")
    if sys.stdout.isatty():
        note(f"to keep it: {keep}\nor in {file}: {line}")
