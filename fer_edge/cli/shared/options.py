"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from fer_edge.errors import UsageError

__all__ = [
    "BACKEND_HELP",
    "classes_option",
    "data_option",
    "detector_model_option",
    "engine_options",
    "format_option",
    "given",
    "new_runs_option",
    "refuse_without_effect",
    "runs_option",
    "tensorrt_option",
    "threads_option",
    "votes_option",
]

F = TypeVar("F", bound=Callable[..., Any])

BACKEND_HELP = (
    "The backend: onnxruntime, openvino, litert, pytorch, tensorrt, tensorrt-dla, tensorrt-rtx."
)
"""The help of ``--backend``, with all names of :data:`fer_edge.backends.BACKENDS` but null."""


def data_option(command: F) -> F:
    """``--data SRC``; None if not given, for :func:`fer_edge.data.resolve_source`."""
    return click.option(
        "--data",
        "data",
        metavar="SRC",
        help="FER2013: Kaggle's zip, its unzipped folder, fer2013.csv, icml_face_data.csv, an "
        "ImageFolder tree, an npz cache, or 'synthetic'.  [default: the environment variable "
        "FER_EDGE_DATA]",
    )(command)


def classes_option(command: F) -> F:
    """``--classes NAMES``; None when not given, for :func:`fer_edge.data.classes.class_choice`."""
    return click.option(
        "--classes",
        metavar="NAMES",
        help="The classes of a tree: own (the names of its folders), fer2013, ferplus, or a list "
        "such as cat,dog; add suprise=surprise to rename a folder, contempt= to leave one out.  "
        "[default: fer2013; for a run or a bundle, those that it was trained with]",
    )(command)


def votes_option(command: F) -> F:
    """``--votes FILE``; None when not given."""
    return click.option(
        "--votes",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="fer2013new.csv of FER+: what ten people saw in each image of FER2013.",
    )(command)


def format_option(command: F) -> F:
    """``--format table|json|csv|markdown``."""
    return click.option(
        "--format",
        "fmt",
        type=click.Choice(["table", "json", "csv", "markdown"]),
        default="table",
        show_default=True,
        help="How to print the result on stdout.",
    )(command)


def runs_option(command: F) -> F:
    """``--runs FOLDER``: the folder in which runs are found by name, as a Path."""
    return _runs_option("--runs")(command)


def new_runs_option(command: F) -> F:
    """``--runs`` of a command that also creates runs in that folder; its old name is ``--out``."""
    return _runs_option("--runs", "--out")(command)


def _runs_option(*names: str) -> Callable[[F], F]:
    def chosen(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path:
        from fer_edge.runs.find import runs_root

        return runs_root(value)

    return click.option(
        *names,
        "root",
        type=click.Path(path_type=Path, file_okay=False),
        callback=chosen,
        help="Folder of all runs.  [default: the environment variable FER_EDGE_RUNS, else runs]",
    )


def threads_option(command: F) -> F:
    """``--threads N``, at least 1."""
    return click.option(
        "--threads",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Threads of each backend.",
    )(command)


def engine_options(command: F) -> F:
    """``--bundle``, ``--runs``, ``--backend``, ``--precision`` and ``--tensorrt``: the engine."""
    bundle = click.option(
        "--bundle",
        metavar="NAME",
        help="A bundle's folder, or a run's name or folder.  [default: the pretrained bundle]",
    )
    backend = click.option(
        "--backend",
        default="onnxruntime",
        show_default=True,
        help=BACKEND_HELP,
    )
    precision = click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "int8"]),
        help="The precision of the engine.  [default: the first of int8, fp16, fp32 that the "
        "backend can run and whose gate has not failed]",
    )
    return bundle(runs_option(backend(precision(tensorrt_option(command)))))


def tensorrt_option(command: F) -> F:
    """``--tensorrt WORDS``: how plans run. The command itself does not get it.

    It sets FER_EDGE_TENSORRT while the command runs, so that its processes have it, too. UsageError
    for a wrong word, or if the command's backend runs no plans.
    """

    @wraps(command)
    def run(*args: Any, tensorrt: str | None = None, **options: Any) -> Any:
        if tensorrt is None:
            return command(*args, **options)
        from fer_edge.trt.lane import LANE_VARIABLE, LaneOptions

        LaneOptions.from_text(tensorrt, "--tensorrt")
        backends = options["backends"] if "backends" in options else [options["backend"]]
        if backends and not any(str(name).startswith("tensorrt") for name in backends):
            named = " and ".join(filter(None, backends))
            raise UsageError(
                f"--tensorrt is for the backends of TensorRT, not for {named or 'this engine'}",
                fix="--backend tensorrt, or leave out --tensorrt",
            )
        with _environment(LANE_VARIABLE, tensorrt):
            return command(*args, **options)

    option = click.option(
        "--tensorrt",
        metavar="WORDS",
        help="How TensorRT's plans run: wait=auto|spin|block, memory=auto|copied|mapped, "
        "graphs=yes|no, dla=0|1, such as wait=block,memory=mapped.  [default: the environment "
        "variable FER_EDGE_TENSORRT]",
    )
    return option(run)  # type: ignore[return-value]  # the same parameters, and one more


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable, and what it was before at the end."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def detector_model_option(command: F) -> F:
    """``--detector-model FILE``; None when not given."""
    return click.option(
        "--detector-model",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="The weights of the detector, where they are your own; yunet needs it.",
    )(command)


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
