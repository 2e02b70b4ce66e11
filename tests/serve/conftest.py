"""Fixtures of this folder."""

from __future__ import annotations

from fixtures_serve import crop, fake_detector, photo, serve, site_of

__all__ = ["crop", "fake_detector", "photo", "serve", "site_of"]
