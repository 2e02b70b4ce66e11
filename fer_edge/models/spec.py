"""The name, options and shapes of a network. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fer_edge.emotions import EMOTIONS
from fer_edge.preprocessing import SIZE

__all__ = ["ModelSpec"]


@dataclass(frozen=True)
class ModelSpec:
    """A network by name; ``options`` are the options of that model, JSON-ready.

    ``package`` is the installed package that the model is a plug-in of, "" for those of fer-edge.
    The bare network takes normalised ``f32[N, channels, size, size]`` and returns the logits,
    ``f32[N, classes]``.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = SIZE
    channels: int = 1
    classes: int = len(EMOTIONS)
    package: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description; equal specs give equal dictionaries."""
        # Files of networks without a plug-in keep their bytes, and so their digests.
        origin = {"package": self.package} if self.package else {}
        return {
            "name": self.name,
            "options": {key: _plain(self.options[key]) for key in sorted(self.options)},
            "size": self.size,
            "channels": self.channels,
            "classes": self.classes,
            **origin,
        }

    def untrained(self) -> ModelSpec:
        """Return the same network without pretrained weights, for a caller that has its weights."""
        kept = {key: value for key, value in self.options.items() if key != "pretrained"}
        return replace(self, options=kept)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ModelSpec:
        """Return the spec of ``content``, which :meth:`to_dict` returned."""
        return cls(
            name=str(content["name"]),
            options=dict(content.get("options", {})),
            size=int(content.get("size", SIZE)),
            channels=int(content.get("channels", 1)),
            classes=int(content.get("classes", len(EMOTIONS))),
            package=str(content.get("package", "")),
        )


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
