"""Executing what an error advises: the machinery of ``test_fixes.py``.

A case makes a mistake (:meth:`Lab.refused`), then does what the ``fix=`` of the error says
(:meth:`Lab.works`, :meth:`Lab.follow`). Only then that advice counts as executed.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import click
import numpy as np
from fixtures_bundle import TinyNet
from fixtures_bundle import _make as make_bundle
from PIL import Image

from fer_edge.bundle import Bundle
from fer_edge.cli import COMMANDS, group
from fer_edge.data import FerDataset, load
from fer_edge.errors import FerEdgeError

__all__ = ["ALL", "CALLED", "CASES", "HEAVY", "Lab", "Step", "case", "heavy", "pairs"]

CALLED = re.compile(r"(?<!of )(?<!the )fer-edge ([a-z][^;`]*?)(?=[;`]|, then|$|\()")
"""A command line in a text; not "the fer-edge that wrote it"."""

DATA = "synthetic:420"
TINY = (
    "--epochs", "1", "--set", "model.options.widths=[8, 16]",
    "--set", "model.options.blocks=[1, 1]", "--set", "optim.batch_size=64",
)  # fmt: skip

Step = Callable[[], Any] | Sequence[object]
"""A call, or the words of a command line."""


class Lab:
    """Inputs that cases share, each made when a case first needs it, and what they executed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.executed: set[str] = set()
        self._pending: list[str] = []
        self._folders = count()
        self._failures: dict[str, BaseException | None] = {}

    # --- the steps of a case ---

    def refused(self, step: Step) -> str:
        """Make a mistake; return the advice of its error."""
        found = None
        try:
            self._do(step)
        except FerEdgeError as error:
            found = error
        assert found is not None, f"not refused: {step}"
        assert found.fix, f"no fix: {found}"
        self._pending.append(found.fix)
        return found.fix

    def answered(self, response: Any) -> str:
        """Take a server's answer to a wrong request; return the advice in it."""
        assert response.status_code >= 400, response.text
        fix: str = response.json()["fix"]
        self._pending.append(fix)
        return fix

    def works(self, step: Step) -> Any:
        """Do what the advice says; it must end without an error."""
        result = self._do(step)
        self.executed.update(self._pending)
        self._pending.clear()
        return result

    def follow(
        self,
        fix: str,
        *more: str,
        options: Mapping[str, Sequence[str]] | None = None,
        **words: str,
    ) -> None:
        """Run the commands in an advice as they are printed.

        ``words`` fill what it leaves open; ``more`` and the ``options`` of a command keep it short.
        """
        commands = CALLED.findall(fix)
        assert commands, fix
        for command in commands:
            line = shlex.split(command)
            assert line[0] in COMMANDS, fix
            add = [*more, *(options or {}).get(line[0], ())]
            self.works([*(words.get(word, word) for word in line), *add])

    def run(self, case: Callable[[Lab], None]) -> None:
        """Execute a case, once; raise what it raised."""
        name = case.__name__
        if name not in self._failures:
            self._pending.clear()
            before = len(self.executed)
            try:
                case(self)
                assert not self._pending, f"mistakes that nothing was done about: {self._pending}"
                assert len(self.executed) > before, "no advice was followed"
                self._failures[name] = None
            except BaseException as error:
                self._failures[name] = error
        failure = self._failures[name]
        if failure is not None:
            raise failure

    def _do(self, step: Step) -> Any:
        if callable(step):
            return step()
        output = io.StringIO()
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                group.main([str(word) for word in step], "fer-edge", standalone_mode=False)
        except click.ClickException as error:
            raise AssertionError(f"{step}: {error.format_message()}") from error
        return output.getvalue()

    # --- what they are made of ---

    def folder(self) -> Path:
        """Return a new folder, below which nothing else is."""
        path = self.root / "cases" / str(next(self._folders))
        path.mkdir(parents=True)
        return path

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder() / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    @cached_property
    def faces(self) -> FerDataset:
        return load(DATA, cache=False)

    @cached_property
    def gray(self) -> np.ndarray:
        return np.arange(48 * 48, dtype=np.uint32).reshape(48, 48).astype(np.uint8)

    @cached_property
    def face(self) -> Path:
        path = self.folder() / "face.png"
        Image.fromarray(self.gray).save(path)
        return path

    @cached_property
    def net(self) -> TinyNet:
        return TinyNet()

    @cached_property
    def onnx(self) -> Path:
        return self.file("model.onnx", self.net.onnx_bytes())

    def bundle(self, *int8: str) -> Bundle:
        """Return a new bundle of a network that was never trained."""
        return make_bundle(self.folder() / "tiny", self.net, True, int8)

    def tree(self, *classes: str, folder: str = "", count: int = 1) -> Path:
        """Return a new tree with ``count`` different pictures in each class folder."""
        root = self.folder() / "tree"
        for place, name in enumerate(classes):
            self.pictures(root / folder / name, count, place)
        return root

    def pictures(self, folder: Path, count: int = 1, place: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = self.gray + np.uint8(7 * number + 31 * place)
            Image.fromarray(pixels).save(folder / f"{folder.name}{number}.png")

    @cached_property
    def trained(self) -> Path:
        """A finished run; training takes a second."""
        self._do(["train", *TINY, "--name", "mine", "--set", "data.holdout=0.2"])
        return Path("runs/mine")

    @property
    def built(self) -> Bundle:
        """The bundle of :attr:`trained`, FP32 unless a case built it again, as it is now."""
        return Bundle.open(self._built)

    @cached_property
    def _built(self) -> Path:
        self._do(["build", self.trained, "--precision", "fp32", "--no-verify"])
        return self.trained / "bundle"


CASES: list[Callable[[Lab], None]] = []
HEAVY: set[str] = set()
"""Names of the cases that train several networks: only with ``make fixes``."""
ALL = os.environ.get("FER_EDGE_FIXES") == "all"


def case(function: Callable[[Lab], None]) -> Callable[[Lab], None]:
    """Register a case."""
    assert all(function.__name__ != other.__name__ for other in CASES), function.__name__
    CASES.append(function)
    return function


def heavy(function: Callable[[Lab], None]) -> Callable[[Lab], None]:
    """Register a case that trains several networks."""
    HEAVY.add(function.__name__)
    return case(function)


def pairs(name: str, table: Sequence[tuple[Step, Step]]) -> None:
    """Register pairs of (mistake, what its advice says) as one case."""

    def run(lab: Lab) -> None:
        for number, (wrong, right) in enumerate(table):
            try:
                lab.refused(wrong)
                lab.works(right)
            except BaseException as error:
                raise AssertionError(f"pair {number} of {name}: {error}") from error

    run.__name__ = name
    case(run)
