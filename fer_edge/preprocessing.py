"""Convert pixels to the network's input: one definition for training, export and all engines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

__all__ = ["SIZE", "Preprocessing"]

SIZE = 48
"""Height and width of a FER2013 image, in pixels."""

_LARGEST = 1e9


@dataclass(frozen=True)
class Preprocessing:
    """``x = (pixel / 255 - mean) / std``, one gray channel; ``mean`` and ``std`` on a 0..1 scale.

    The defaults are those of the 28,709 training images of FER2013 (``fer-edge data info``).
    """

    mean: float = 0.5077
    std: float = 0.2550

    def normalise(self, images: np.ndarray) -> np.ndarray:
        """Return f32 of the same shape, from u8 pixels."""
        import numpy as np

        scale = np.float32(1.0 / (255.0 * self.std))
        normalised: np.ndarray = images.astype(np.float32) * scale - np.float32(
            self.mean / self.std
        )
        return normalised

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return {"size": SIZE, "color": "gray", **asdict(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Preprocessing:
        """Read what :meth:`to_dict` wrote; ValueError for anything else."""
        if not isinstance(content, dict):
            raise ValueError("it is not a table")
        values = []
        for name in ("mean", "std"):
            value: Any = content.get(name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not abs(value) < _LARGEST or (name == "std" and value <= 0):
                raise ValueError(f"{name} is not a {'positive ' * (name == 'std')}number")
            values.append(float(value))
        return cls(*values)
