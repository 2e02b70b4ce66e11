"""Import NVIDIA's bindings over stub libraries, in a process of their own."""

from __future__ import annotations

import ctypes
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def load_bindings(folder: str, module: str) -> Any:
    """Import ``module`` from ``folder`` (``-``: from where it is installed) and return it."""
    if folder != "-":
        # Loaded by soname before the bindings ask for them.
        for library in sorted(Path(folder).glob("lib*.so.*")):
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        sys.path.insert(0, folder)
    return import_module(module)
