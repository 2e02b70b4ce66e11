"""A plug-in for fer-edge. Keep this module light: `fer-edge models` imports it, without torch."""

from __future__ import annotations

from fer_edge import ModelEntry

__all__ = ["OWN_NET"]

OWN_NET = ModelEntry(
    target="own_network.network:build",
    summary="depthwise-separable blocks, 32-64-128",
    source="examples/own-network",
    parameters=12_615,
    macs=818_816,
)
