"""``fer-edge serve``: a page and an HTTP API that answer for photographs.

The modules that need the extra ``serve`` (FastAPI, uvicorn, prometheus-client) are ``app``,
``bodies``, ``metrics`` and ``server``.
"""

from __future__ import annotations

from fer_edge.serve.settings import Settings

__all__ = ["Settings"]
