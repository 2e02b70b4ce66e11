"""A bundle on disk: read, write, pack, and choose the engine to use."""

from __future__ import annotations

from fer_edge.bundle.bundle import GOLDEN, Bundle, BundleWriter
from fer_edge.bundle.manifest import MANIFEST, Artifact, Manifest

__all__ = ["GOLDEN", "MANIFEST", "Artifact", "Bundle", "BundleWriter", "Manifest"]
