"""Run every kind of hostile input for some minutes, and print the table: ``make fuzz``.

::

    python tests/fuzz/fuzz.py --minutes 10
    python tests/fuzz/fuzz.py --kind "data: zip" --seed 1234      # one input again

The memory of the process is limited, so an input that unpacks to more than it may becomes a
failure. Exit code 1 if any input failed.
"""

from __future__ import annotations

import argparse
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

if __name__ == "__main__":
    TESTS = Path(__file__).parents[1]
    sys.path[:0] = [str(TESTS / "fuzz"), str(TESTS), str(TESTS / "fixtures")]

import click
from hostile import KINDS, Kind, WrongError, fault_of

from fer_edge.errors import FerEdgeError
from fer_edge.report.rows import format_rows

__all__ = ["Tally", "fuzz", "one"]

MEMORY = 6 * 2**30
"""Bytes of address space. Torch and ONNX Runtime reserve about 3 GiB of it."""
LEAST = 40
"""Inputs of each kind, however slow the machine is."""
LONGEST_S = 120
"""Seconds after which an input counts as one that hangs; much more than a busy machine needs."""


class HangError(Exception):
    """An input took longer than ``LONGEST_S``."""


@dataclass
class Tally:
    """Counts of one kind, and its failures as (seed, text)."""

    read: int = 0
    refused: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def tried(self) -> int:
        """Number of inputs."""
        return self.read + self.refused + len(self.failures)


def one(kind: Kind, seed: int, tally: Tally) -> None:
    """Try the input of ``seed``, and count what happens."""
    rng = random.Random(f"{kind.name}:{seed}")
    before = signal.signal(signal.SIGALRM, _hang)
    signal.alarm(LONGEST_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # Of torch and numpy themselves: not about the input.
            warnings.simplefilter("ignore", (DeprecationWarning, ResourceWarning))
            read = kind.run(rng)
    except FerEdgeError as error:
        fault = fault_of(error)
        if fault:
            tally.failures.append((seed, fault))
        else:
            tally.refused += 1
    except WrongError as error:
        tally.failures.append((seed, str(error)))
    except (Exception, HangError, MemoryError):
        tally.failures.append((seed, _where()))
    else:
        tally.read += read
        tally.refused += not read
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(kind: Kind, seconds: float, first: int = 0) -> Tally:
    """Try inputs of ``kind`` for ``seconds``, and at least ``LEAST``."""
    tally, seed, end = Tally(), first, time.monotonic() + seconds
    while time.monotonic() < end or tally.tried < LEAST:
        one(kind, seed, tally)
        seed += 1
    return tally


def _hang(signum: int, frame: FrameType | None) -> None:
    raise HangError(f"no end after {LONGEST_S} s")


def _where() -> str:
    """Return the exception's last lines, with the place in this package where it came from."""
    kind, error, trace = sys.exc_info()
    ours = [f for f in traceback.extract_tb(trace) if "fer_edge/" in f.filename]
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"{kind.__name__ if kind else ''}{place}: {str(error)[:300]!r}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--kind", choices=list(KINDS), action="append")
    parser.add_argument("--seed", type=int, help="try this one input of --kind")
    parser.add_argument("--first", type=int, default=None, help="first seed [default: the time]")
    return parser


def main() -> int:
    """Run, print the table and the failures."""
    asked = _parser().parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    names = asked.kind or list(KINDS)
    first = asked.first if asked.first is not None else int(time.time()) * 1000
    rows, failed = [], []
    with tempfile.TemporaryDirectory(prefix="fer-edge-fuzz-") as folder:
        for place, name in enumerate(names):
            kind = KINDS[name](Path(folder) / str(place))
            if asked.seed is not None:
                tally = Tally()
                one(kind, asked.seed, tally)
            else:
                tally = fuzz(kind, asked.minutes * 60 / len(names), first)
            failed += [(name, seed, text) for seed, text in tally.failures]
            rows.append(
                {
                    "kind": name,
                    "inputs": f"{tally.tried:,}",
                    "read": f"{tally.read:,}",
                    "refused": f"{tally.refused:,}",
                    "failures": f"{len(tally.failures):,}",
                    "failures before (commit cff834c)": KINDS[name].before,
                }
            )
            click.echo(f"{name}: {tally.tried:,} inputs, {len(tally.failures):,} failed", err=True)
    click.echo(format_rows(rows, "markdown"))
    seen: set[str] = set()
    for name, seed, text in failed:
        if f"{name}{text[:60]}" not in seen:
            seen.add(f"{name}{text[:60]}")
            click.echo(f'failed: --kind "{name}" --seed {seed}: {text}')
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
