"""Writing a folder for another program: complete under its name, or not there at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fer_edge.errors import UsageError
from fer_edge.swap import Stage, settled, swap

__all__ = ["new_folder"]


@contextmanager
def new_folder(out: Path | str, *, sign: str, replace: bool) -> Iterator[Path]:
    """Yield an empty folder that takes the name ``out`` if the body ends without an error.

    ``out`` may be missing or empty. With ``replace`` it may also be a folder that holds the file
    ``sign``, by which one written earlier is known; :class:`UsageError` for anything else.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with settled(out):
        _check_free(out, sign, replace)
    stage = Stage(out)
    try:
        yield stage.path
        with settled(out):
            _check_free(out, sign, replace)
            stage.sync()
            swap(stage, out)
    finally:
        stage.close()


def _check_free(out: Path, sign: str, replace: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / sign).is_file():
        raise UsageError(
            f"{out} exists and was not written by this command: it is not overwritten",
            fix="name another folder with -o",
        )
    if not replace:
        raise UsageError(f"{out} exists already", fix="name another with -o, or add --replace")
