"""The steps of ``make test-aarch64`` and the table of what each of them found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

OK, NOT_RUN, MISSING, FAILED = "ok", "not run", "missing", "FAILED"
"""The states of a row."""
LIMIT_S = 3600
"""After which a command hangs; qemu on a busy machine is slow."""


class StepError(Exception):
    """A step failed; the message is its row."""


class MissingError(StepError):
    """A tool is missing."""


class NotRunError(Exception):
    """A step has nothing to do here; the message is the reason."""


@dataclass(frozen=True)
class Step:
    """One line of the table: what it does, and the steps without which it makes no sense."""

    name: str
    action: Callable[[Check], str]
    needs: tuple[str, ...] = ()


@dataclass
class Row:
    step: str
    state: str
    seconds: float
    found: str


@dataclass
class Check:
    """The folders of one run, and the rows until now. ``work`` is /checked inside ``root``."""

    cache: Path
    rows: list[Row] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.cache / "root"

    @property
    def work(self) -> Path:
        return self.cache / "work"

    def run_all(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.run(step)

    def run(self, step: Step) -> None:
        """Run one step, unless one that it needs did not work; add its row."""
        start, state = time.monotonic(), OK
        lacks = [row.step for row in self.rows if row.step in step.needs and row.state != OK]
        try:
            if lacks:
                raise NotRunError(f"needs: {', '.join(lacks)}")
            found = step.action(self)
        except NotRunError as reason:
            state, found = NOT_RUN, str(reason)
        except MissingError as reason:
            state, found = MISSING, str(reason)
        except StepError as reason:
            state, found = FAILED, str(reason)
        except Exception as error:  # a table with a failed row is better than no table
            state, found = FAILED, f"{type(error).__name__}: {error}"
        self.rows.append(Row(step.name, state, time.monotonic() - start, found))
        sys.stderr.write(f"{state:8}{step.name} ({self.rows[-1].seconds:.0f} s): {found}\n")

    def here(self, *command: object, **env: str) -> str:
        """Run a command on this machine and return its stdout."""
        return run(command, {**os.environ, "PYTHONPATH": str(REPOSITORY), **env})

    def fer_edge(self, *arguments: object) -> str:
        """Run our command on this machine and return its stdout."""
        return self.here(sys.executable, "-m", "fer_edge", *arguments)


def run(command: Sequence[object], environment: dict[str, str]) -> str:
    """Run a command and return its stdout; StepError with its last words if it fails."""
    words = [str(word) for word in command]
    done = ended(words, environment)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-3:]
        raise StepError(f"{' '.join(words[-4:])}: exit code {done.returncode}: {' | '.join(said)}")
    return done.stdout


def ended(words: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its exit code; StepError if it hangs."""
    try:
        return subprocess.run(
            words, capture_output=True, text=True, env=environment, check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"{' '.join(words[-4:])}: not done after {LIMIT_S} s") from None


def exit_code(rows: Sequence[Row]) -> int:
    """Return 5 if a tool is missing, 1 if a step failed, else 0."""
    states = {row.state for row in rows}
    return 5 if MISSING in states else int(FAILED in states)


def table_of(rows: Sequence[Row], title: str) -> str:
    """Return the rows as a Markdown table."""
    from fer_edge.report.rows import format_rows

    table: list[dict[str, Any]] = [{**vars(row), "seconds": f"{row.seconds:.0f}"} for row in rows]
    return format_rows(table, "markdown", title=title)
