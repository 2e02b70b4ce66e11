"""Progress of a measurement: a bar that is redrawn only when told to.

Rich's own bar redraws itself from a thread ten times a second; while a query is timed, that thread
would be part of what is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from fer_edge.cli._output import log
from fer_edge.progress import Reporter

__all__ = ["stages"]

_REDRAW_S = 0.2


@contextmanager
def stages() -> Iterator[Reporter]:
    """Yield a reporter that draws a bar per stage, on stderr if that is a terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(
        *columns, console=log, transient=True, auto_refresh=False, disable=not log.is_terminal
    ) as bars:
        tasks: dict[str, TaskID] = {}
        drawn = 0.0

        class Bars(Reporter):
            def progress(self, stage: str, done: int, total: int) -> None:
                nonlocal drawn
                now = time.monotonic()
                new = stage not in tasks
                if not new and done < total and now - drawn < _REDRAW_S:
                    return
                if new:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)
                bars.refresh()
                drawn = now

        yield Bars()
