"""The ``fer-edge`` command: a lazy group, one file per command, and the one place that exits."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from fer_edge.errors import FerEdgeError, of_signal_handler, unknown
from fer_edge.oserrors import error_from_system
from fer_edge.pipes import discard, has_no_reader, is_discarded, say
from fer_edge.version import __version__

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "DEPRECATED", "Deprecated", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("fer_edge.cli.train", "Train a network on FER2013."),
    "soup": ("fer_edge.cli.soup", "Average the weights of runs with the same initial weights."),
    "confidence": ("fer_edge.cli.confidence", "Fit a run's confidence on its held-out images."),
    "qat": ("fer_edge.cli.qat", "Fine-tune a run whose INT8 engine loses too much accuracy."),
    "search": ("fer_edge.cli.search", "Search hyper-parameters, with one worker or several."),
    "build": ("fer_edge.cli.build", "Build a verified FP32, FP16 or INT8 engine into a bundle."),
    "bench": ("fer_edge.cli.bench", "Compare backends and precisions: accuracy, flips, latency."),
    "report": ("fer_edge.cli.report", "Write an HTML report about a bundle."),
    "verify": ("fer_edge.cli.verify", "Compare a bundle's engine with the PyTorch reference."),
    "evaluate": (
        "fer_edge.cli.evaluate",
        "Score a network: tables, confusion, reliability.",
    ),
    "explain": ("fer_edge.cli.explain", "Draw Grad-CAM maps of faces."),
    "plot": ("fer_edge.cli.plot", "Draw predictions beside faces, or learning curves."),
    "inspect": ("fer_edge.cli.inspect", "Show a bundle's manifest and check its digests."),
    "predict": ("fer_edge.cli.predict", "Classify faces in image files."),
    "serve": ("fer_edge.cli.serve", "Serve a page and an HTTP API that classify faces."),
    "camera": ("fer_edge.cli.camera", "Follow and classify faces in a camera's image or a video."),
    "models": ("fer_edge.cli.models", "List the networks that can be trained."),
    "data": ("fer_edge.cli.data", "Describe or audit a data set."),
    "doctor": ("fer_edge.cli.doctor", "Show what can run on this machine, and why not."),
    "bundle": ("fer_edge.cli.bundle", "Pack a bundle into one file, or for Triton or DeepStream."),
    "demo": ("fer_edge.cli.demo", "Train, build and bench in about two minutes."),
    "completion": ("fer_edge.cli.completion", "Print the script that completes this in a shell."),
}
"""Command name -> (module that holds ``command``, one line for ``--help``)."""


class Deprecated(NamedTuple):
    """The current name of a command or option, and the versions that its old name works in."""

    new: str
    since: str
    removed_in: str


DEPRECATED: dict[tuple[str, ...], Deprecated] = {
    ("calibrate",): Deprecated("confidence", since="0.1.0", removed_in="0.3.0"),
    ("confidence", "--target"): Deprecated("--accuracy", since="0.1.0", removed_in="0.3.0"),
}
"""Old name -> new name: ``(command,)``, or ``(command, --option)`` with the command's current name.

The old names do the same as the new ones and print one line on stderr. They are in no ``--help``.
"""


@contextmanager
def _reader_may_end() -> Iterator[None]:
    """End without an error if stdout's reader has ended (:mod:`fer_edge.pipes`)."""
    try:
        yield
    except BrokenPipeError as error:
        # Its rest has perhaps been discarded already; another pipe may have broken as well, which
        # click would take for this one.
        if not (has_no_reader(sys.stdout) or is_discarded(sys.stdout)):
            raise error_from_system(error) from error
        discard(sys.stdout)
        raise click.exceptions.Exit(0) from None


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command runs."""

    def make_context(self, *values: Any, **options: Any) -> click.Context:
        """Read the command line; ``--help`` and ``--version`` print here."""
        with _reader_may_end():
            return super().make_context(*values, **options)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        with _reader_may_end():  # inside of click, which would end with code 1
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which a user needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(COMMANDS[cmd_name][0]).command
        assert isinstance(command, click.Command)
        return _with_verbosity(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Replace deprecated names, and name the nearest command if the given one is unknown."""
        if ctx.resilient_parsing:  # a shell asks for completions: a line that is not finished
            return super().resolve_command(ctx, args)
        args = _current_names(args)
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown("command", args[0], COMMANDS)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name from the table above, as :meth:`format_commands` does."""
        from click.shell_completion import CompletionItem

        options = click.Command.shell_complete(self, ctx, incomplete)
        return options + [
            CompletionItem(name, help=line)
            for name, (_, line) in COMMANDS.items()
            if name.startswith(incomplete)
        ]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands from the table above: importing them all would take seconds."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


def _current_names(args: list[str]) -> list[str]:
    """Return a command line, command first, with each deprecated name replaced by the new one."""
    command, *words = args or [""]
    if (command,) in DEPRECATED:
        command = _replacement(command, DEPRECATED[(command,)])
    options = words[: words.index("--")] if "--" in words else words
    for place, word in enumerate(options):
        name, equals, value = word.partition("=")
        if (command, name) in DEPRECATED:
            new = _replacement(f"{command} {name}", DEPRECATED[command, name])
            words[place] = f"{new}{equals}{value}"
    return [command, *words] if args else args


def _replacement(old: str, name: Deprecated) -> str:
    say(
        f"deprecated: '{old}' is now '{name.new}'; "
        f"the old name works until version {name.removed_in}"
    )
    return name.new


def _verbosity_options() -> list[click.Parameter]:
    """Return ``-v`` and ``-q``, which the group takes before the command, and each command."""

    def set_verbose(context: click.Context, parameter: click.Parameter, value: int) -> None:
        if value:
            from fer_edge.cli.shared.output import show_log

            show_log(context, value)

    def set_quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
        if value:
            from fer_edge.cli.shared.output import hide_progress

            hide_progress(context)

    return [
        click.Option(
            ["-v", "--verbose"],
            count=True,
            expose_value=False,
            callback=set_verbose,
            help="Write a log to stderr; -vv writes more.",
        ),
        click.Option(
            ["-q", "--quiet"],
            is_flag=True,
            expose_value=False,
            callback=set_quiet,
            help="Show only results and errors, no progress and no notes.",
        ),
    ]


def _with_verbosity(command: click.Command) -> click.Command:
    """Add ``-v`` and ``-q`` to a command, or to all commands of a group."""
    if isinstance(command, click.Group):
        for subcommand in command.commands.values():
            _with_verbosity(subcommand)
    elif all(parameter.name != "quiet" for parameter in command.params):
        command.params += _verbosity_options()
        command.callback = _blaming_plug_ins(command.callback)
    return command


def _blaming_plug_ins(callback: Callable[..., Any] | None) -> Callable[..., Any]:
    """Let a command turn what the code of a plug-in raised into one line that names its package.

    For what runs inside a library, such as a network's layers in torch.
    """
    assert callback is not None

    @wraps(callback)
    def call(*values: Any, **options: Any) -> Any:
        try:
            return callback(*values, **options)
        except (FerEdgeError, OSError, click.exceptions.Exit, click.ClickException, click.Abort):
            raise  # an OSError names its path
        except Exception as error:
            if of_signal_handler(error):
                raise
            from fer_edge.plugins import culprit

            plug = culprit(error)
            if plug is None:
                raise
            raise plug.failed(error) from error

    return call


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", package_name="fer-edge", prog_name="fer-edge")
def group() -> None:
    """Train a compact facial-expression network, build engines from it, and verify them.

    \b
    Example:
      fer-edge train --data fer2013.zip
      fer-edge build --precision int8 --data fer2013.zip
      fer-edge bench --data fer2013.zip
    """


group.params += _verbosity_options()


def main(argv: list[str] | None = None) -> None:
    """Run the command line; an error prints one line and its fix, and sets the exit code."""
    _accept_every_text()
    try:
        group.main(args=argv, prog_name="fer-edge", standalone_mode=False)
        if sys.stdout is not None:  # None: the shell closed it
            with _reader_may_end():
                sys.stdout.flush()
    except FerEdgeError as error:
        _fail(error)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        sys.exit(130)
    except OSError as error:
        _fail(error_from_system(error, default=_printing(error)))
    finally:
        # Of a wrong command line, click never closes the context. No import: most commands end so.
        output = sys.modules.get("fer_edge.cli.shared.output")
        if output is not None:
            output.hide_logs()


def _fail(error: FerEdgeError) -> NoReturn:
    with suppress(OSError):
        click.echo(f"error: {error}", err=True)
        if error.fix:
            click.echo(f"fix:   {error.fix}", err=True)
    sys.exit(error.exit_code)


def _printing(error: OSError) -> str:
    """Return "stdout" if a write to it failed, as on a full disk behind ``>``; else ""."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", "")) if trace else ""
    if not module.startswith(("click.", "rich.", "fer_edge.cli")):
        return ""
    # The interpreter writes the rest at its end, and would fail again with a traceback.
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return "stdout"


def _accept_every_text() -> None:
    """Write what the encoding of stdout or stderr does not have as an escape: ``\\u2192``.

    Else a name of a class or a file would end a command with UnicodeEncodeError, where the terminal
    is not UTF-8, or where the name of a file is not.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
