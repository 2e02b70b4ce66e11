"""A bundle on disk: read, write, pack, and choose the engine to use."""

from __future__ import annotations

from fer_edge.bundle.bundle import GOLDEN, Bundle
from fer_edge.bundle.manifest import MANIFEST, Artifact, Manifest
from fer_edge.bundle.writer import BundleWriter

__all__ = ["GOLDEN", "MANIFEST", "Artifact", "Bundle", "BundleWriter", "Manifest"]
