"""Run in the aarch64 root and on this machine: the logits of each precision on the same images.

``python labels.py BACKEND BUNDLE IMAGES.npz OUT.npz PRECISION...``; onnxruntime needs the base
install only.
"""

from __future__ import annotations

import sys

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.bundle import Bundle


def main(backend: str, bundle: str, images: str, out: str, *precisions: str) -> None:
    with np.load(images, allow_pickle=False) as archive:
        pixels = archive["images"]
    kind, opened, logits = backend_class(backend), Bundle.open(bundle), {}
    for precision in precisions:
        with kind.from_bundle(opened, precision) as engine:
            rows = [engine.infer(pixels[i : i + 1, None]) for i in range(len(pixels))]
            logits[precision] = np.concatenate(rows)
    np.savez(out, **logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
