"""The time of a whole process of the command line, and of ``import click`` alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

COMMANDS = {
    "fer-edge --help": ["-m", "fer_edge", "--help"],
    "fer-edge bench --help": ["-m", "fer_edge", "bench", "--help"],
    "python -c 'import click' (the floor)": ["-c", "import click"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_startup(benchmark: BenchmarkFixture, name: str) -> None:
    command = [sys.executable, *COMMANDS[name]]
    benchmark.pedantic(
        subprocess.run,
        [command],
        {"stdout": subprocess.DEVNULL, "check": True},
        rounds=15,
        warmup_rounds=2,
    )
