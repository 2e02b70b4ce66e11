"""How far TensorRT's builder is, and stopping it with Ctrl-C."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fer_edge.progress import Advance

__all__ = ["BuildProgress", "watch_build"]

_TOTAL = 1000


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Turns the builder's nested phases into one number that never falls, out of 1000.

    A callback that raises (Ctrl-C arrives as an exception) is kept in ``stopped`` and the build is
    cancelled: an exception thrown through the C++ builder would end the process.
    """

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._phases: dict[str, _Phase] = {}
        self._shown = -1
        self.stopped: BaseException | None = None

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of ``steps`` steps begins inside ``parent``."""
        self._phases[name] = _Phase(parent, max(int(steps), 1))
        self._show()

    def step(self, name: str, step: int) -> bool:
        """Step ``step`` (from 0) of a phase is done; returns whether to go on."""
        if name in self._phases:
            self._phases[name].done = int(step) + 1
        self._show()
        return self.stopped is None

    def finish(self, name: str) -> None:
        """A phase is over."""
        phase = self._phases.pop(name, None)
        if phase is not None and phase.parent is None and self.stopped is None:
            self._report(_TOTAL)

    def _fraction(self, name: str | None) -> float:
        inside = [(n, p) for n, p in self._phases.items() if p.parent == name]
        if not inside:
            return 0.0
        child, phase = inside[-1]
        return min((phase.done + self._fraction(child)) / phase.steps, 1.0)

    def _show(self) -> None:
        if self.stopped is None:
            self._report(int(self._fraction(None) * _TOTAL))

    def _report(self, done: int) -> None:
        if done <= self._shown:
            return
        self._shown = done
        try:
            self._advance(done, _TOTAL)
        except BaseException as error:
            self.stopped = error


@contextmanager
def watch_build(trt: ModuleType, config: Any, advance: Advance) -> Iterator[None]:
    """Report a build's progress while the body runs; TensorRT 8.6 cannot report any."""
    if not hasattr(trt, "IProgressMonitor"):
        yield
        return
    watch = BuildProgress(advance)

    class _Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            watch.start(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return watch.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            watch.finish(phase_name)

    monitor = _Monitor()  # held here: the config keeps no reference to it
    config.progress_monitor = monitor
    try:
        yield
    finally:
        if watch.stopped is not None:
            raise watch.stopped
