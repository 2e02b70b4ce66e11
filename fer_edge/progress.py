"""How a long operation reports what it does: counts per stage, and notes for the user.

Library functions take ``reporter: Reporter = SILENT`` and never print. A command passes a subclass
that draws bars and writes notes to stderr. Details that a user need not read (which files were
read, what the cache had, how long a stage took) go to ``logger``, not to a reporter.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

__all__ = ["SILENT", "Advance", "Reporter", "logger"]

logger = logging.getLogger("fer_edge")
"""The log of the whole package; records name the module. An application chooses its handlers."""

logger.addHandler(logging.NullHandler())

Advance = Callable[[int, int], None]
"""``advance(done, total)``: how much of one stage is done; called often, so it must be cheap."""


class Reporter:
    """Receives progress and notes. This one ignores both; subclasses show them."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """``done`` of the ``total`` units of ``stage`` are finished; the first call may have 0."""

    def note(self, text: str) -> None:
        """One line that the user should read; no action is needed."""

    def stage(self, name: str) -> Advance:
        """Return :meth:`progress` of one stage, for functions that do not know its name."""
        return partial(self.progress, name)


SILENT = Reporter()
"""The default of every ``reporter`` parameter."""
