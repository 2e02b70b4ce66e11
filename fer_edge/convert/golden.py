"""The golden self-test: synthetic images and their reference logits, as a file of a bundle."""

from __future__ import annotations

import io
import zipfile
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from fer_edge.backends.selftest import judge_self_test
from fer_edge.errors import NumericsError, UnavailableError
from fer_edge.preprocessing import SIZE

if TYPE_CHECKING:
    from fer_edge.measure.proof import EngineFile

__all__ = ["GOLDEN_COUNT", "golden_bytes", "golden_failure", "golden_images"]

GOLDEN_COUNT = 32
"""The number of golden inputs in a bundle."""

_FACES = 24


@lru_cache(maxsize=1)
def golden_images() -> np.ndarray:
    """Return u8[32,1,48,48]: 24 procedural faces, and 8 extreme inputs.

    None is an image of a person, since a bundle may be published. The array is not writable.
    """
    from fer_edge.data.synthetic import MIN_COUNT, synthetic_faces

    faces = synthetic_faces(MIN_COUNT, seed=GOLDEN_COUNT).images[:_FACES]
    images = np.concatenate([faces, _edge_cases()])[:, None]
    images.flags.writeable = False
    return images


def _edge_cases() -> np.ndarray:
    ramp = np.linspace(0, 255, SIZE).round().astype(np.uint8)
    generator = np.random.default_rng(48)
    rows, columns = np.indices((SIZE, SIZE))
    return np.stack(
        [
            np.zeros((SIZE, SIZE), np.uint8),
            np.full((SIZE, SIZE), 255, np.uint8),
            np.full((SIZE, SIZE), 129, np.uint8),  # FER2013's mean: the network sees zeros
            np.tile(ramp, (SIZE, 1)),
            np.tile(ramp[:, None], (1, SIZE)),
            ((rows // 6 + columns // 6) % 2 * 255).astype(np.uint8),
            generator.integers(0, 256, (SIZE, SIZE)).astype(np.uint8),
            generator.integers(120, 136, (SIZE, SIZE)).astype(np.uint8),  # hardly any contrast
        ]
    )


def golden_bytes(images: np.ndarray, logits: np.ndarray) -> bytes:
    """Return an npz of ``images`` and ``logits``; equal arrays give equal bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in (("images", images), ("logits", logits.astype(np.float32))):
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.ascontiguousarray(array), allow_pickle=False)
            # np.savez would write the current time into each entry.
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, entry.getvalue())
    return content.getvalue()


def golden_failure(
    engine: EngineFile, images: np.ndarray, logits: np.ndarray, *, threads: int = 1
) -> NumericsError | None:
    """Replay the golden images as a device does on first load; return what is wrong, or None.

    Also None if the engine cannot run here: the device will test it.
    """
    try:
        with engine.open(threads) as backend:
            answers = np.concatenate([backend.infer(image[None]) for image in images.copy()])
            # The path of a build is a temporary one, and a manifest keeps the message.
            judge_self_test(answers, logits, backend, file=engine.artifact)
    except UnavailableError:
        return None
    except NumericsError as error:
        return error
    return None
