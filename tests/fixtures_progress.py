"""A reporter that remembers what it received."""

from __future__ import annotations

from fer_edge.progress import Reporter

__all__ = ["Recorder"]


class Recorder(Reporter):
    """``calls`` are (stage, done, total), ``notes`` the texts."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int]] = []
        self.notes: list[str] = []

    def progress(self, stage: str, done: int, total: int) -> None:
        self.calls.append((stage, done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)

    def counts(self, stage: str) -> list[tuple[int, int]]:
        """Return (done, total) of each call of one stage."""
        return [(done, total) for name, done, total in self.calls if name == stage]
