"""How a script ends in an error: the reason and the fix on stderr, and the exit code of both."""

from __future__ import annotations

import sys

from fer_edge.errors import FerEdgeError

__all__ = ["told"]


def told(error: FerEdgeError) -> int:
    """Print ``error`` and its fix, if it has one, as the command line does; return its code."""
    sys.stderr.write(f"error: {error}\n")
    if error.fix:
        sys.stderr.write(f"fix:   {error.fix}\n")
    return error.exit_code
