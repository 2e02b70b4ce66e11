"""FER+ (Barsoum et al. 2016, arXiv 1608.01041): what ten people see in each image of FER2013."""

from __future__ import annotations

__all__: list[str] = []
