"""Run in the aarch64 root and on this machine: the logits of each precision on the same images.

``python labels.py BUNDLE IMAGES.npz OUT.npz PRECISION...``; it needs the base install only.
"""

from __future__ import annotations

import sys

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.bundle import Bundle


def main(bundle: str, images: str, out: str, *precisions: str) -> None:
    with np.load(images, allow_pickle=False) as archive:
        pixels = archive["images"]
    opened, logits = Bundle.open(bundle), {}
    for precision in precisions:
        with backend_class("onnxruntime").from_bundle(opened, precision) as backend:
            rows = [backend.infer(pixels[i : i + 1, None]) for i in range(len(pixels))]
            logits[precision] = np.concatenate(rows)
    np.savez(out, **logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
