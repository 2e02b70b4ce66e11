"""The old name of ``fer-edge camera``: a call with the settings of a Jetson.

It keeps services and containers going that were installed with it::

    python camera.py BUNDLE [--source csi] [--show] [options of fer-edge camera]

is ``fer-edge camera csi --bundle BUNDLE --backend tensorrt --detector haar --smallest 48
--patience 60 --format json``, and ``--show`` is ``--window``. Options that are given win.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fer_edge.cli import main as fer_edge

__all__ = ["arguments", "main"]

_DEFAULTS = (
    *("--source", "csi", "--backend", "tensorrt", "--detector", "haar", "--smallest", "48"),
    *("--patience", "60", "--format", "json"),
)


def arguments(argv: Sequence[str]) -> list[str]:
    """Return the arguments of ``fer-edge`` for those of this script."""
    if not argv or argv[0] in {"-h", "--help"}:
        return ["camera", "--help"]
    bundle, *options = argv
    new = ["--window" if option == "--show" else option for option in options]
    return ["camera", *_DEFAULTS, "--bundle", bundle, *new]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; it exits with its exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given and given[0].startswith("-") and given[0] not in {"-h", "--help"}:
        sys.stderr.write(
            f"error: the first argument is the bundle, not {given[0]}\n"
            "fix:   python camera.py BUNDLE --source csi\n"
        )
        sys.exit(2)
    fer_edge(arguments(given))


if __name__ == "__main__":
    main()
