"""``python -m fer_edge`` is the ``fer-edge`` command."""

from fer_edge.cli import main

if __name__ == "__main__":
    main()
