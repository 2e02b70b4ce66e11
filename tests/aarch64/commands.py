"""Commands of the base install: run there and here; their answers have to be the same."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aarch64.root import there
from aarch64.table import Check, NotRunError, StepError

PRECISIONS = ("fp32", "fp16", "int8")
SCRIPT = Path(__file__).with_name("labels.py")


def doctor(check: Check) -> str:
    report = json.loads(there(check, "fer-edge", "doctor", "--format", "json"))
    rows = {row["name"]: row for row in report["checks"]}
    if "aarch64" not in rows["fer-edge"]["found"] or rows["ONNX Runtime"]["status"] != "ok":
        raise StepError(f"{rows['fer-edge']['found']}; {rows['ONNX Runtime']['found']}")
    if "asimd" not in rows["CPU"]["found"]:
        raise StepError(rows["CPU"]["found"])
    if report["backends"]["onnxruntime"] is not None:
        raise StepError(str(report["backends"]["onnxruntime"]))
    cpu, target = rows["CPU"]["found"].partition(";")[0], report["target"]["name"]
    return f"ONNX Runtime {rows['ONNX Runtime']['found']}; CPU: {cpu}; target {target}"


def unpack(check: Check) -> str:
    """Pack the pretrained bundle here; unpack it there. ``inspect`` has to say the same."""
    from fer_edge.pretrained import pretrained_path

    archive = check.work / "faces.fer"
    check.fer_edge("bundle", "pack", pretrained_path(), "-o", archive)
    there(check, "fer-edge", "bundle", "unpack", "/checked/faces.fer", "-o", "/checked/bundle")
    theirs = json.loads(there(check, "fer-edge", "inspect", "/checked/bundle", "--format", "json"))
    ours = json.loads(check.fer_edge("inspect", check.work / "bundle", "--format", "json"))
    different = [key for key in ours if key != "path" and ours[key] != theirs.get(key)]
    if different:
        raise StepError(f"inspect differs in: {', '.join(different)}")
    return f"{sum(1 for _ in (check.work / 'bundle').rglob('*.onnx'))} graphs, inspect is the same"


def predict(check: Check) -> str:
    from PIL import Image

    pixels = faces(4)
    for i, face in enumerate(pixels):
        Image.fromarray(face).resize((96, 96)).save(check.work / f"face{i}.png")
    names = [f"face{i}.png" for i in range(len(pixels))]
    # Without a detector: OpenCV is not part of the base install.
    options = ("predict", "--no-detect", "--format", "json", "--backend", "onnxruntime")
    theirs = there(
        check, "fer-edge", *options, "--bundle", "/checked/bundle",
        *[f"/checked/{name}" for name in names],
    )  # fmt: skip
    ours = check.fer_edge(
        *options, "--bundle", check.work / "bundle", *[check.work / name for name in names]
    )
    labels = [found(text, "label") for text in (ours, theirs)]
    if labels[0] != labels[1] or len(labels[0]) != len(names):
        raise StepError(f"here {labels[0]}, there {labels[1]}")
    return f"{len(names)} photographs of 96x96: {', '.join(labels[1])}"


def verify(check: Check) -> str:
    """``fer-edge verify`` has to find the same flips and accuracy."""
    options = ("--data", "synthetic:500", "--no-record", "--format", "json")
    theirs = there(check, "fer-edge", "verify", "/checked/bundle", *options)
    ours = check.fer_edge("verify", check.work / "bundle", *options)
    facts = [{key: found(text, key) for key in ("n", "flips", "top1")} for text in (ours, theirs)]
    if facts[0] != facts[1] or not facts[0]["n"]:
        raise StepError(f"here {facts[0]}, there {facts[1]}")
    return f"n {facts[1]['n'][0]}, flips {facts[1]['flips'][0]}, as here"


def synthetic(check: Check) -> str:
    return same_labels(check, "synthetic", faces(500))


def real(check: Check) -> str:
    from fer_edge.data import load

    data = os.environ.get("FER_EDGE_DATA")
    if not data:
        raise NotRunError("FER_EDGE_DATA is not set")
    return same_labels(check, "real", load(data).select("public").images[:200])


def same_labels(
    check: Check,
    name: str,
    pixels: np.ndarray,
    *,
    backend: str = "onnxruntime",
    bundle: str = "bundle",
    python: object = "python",
    precisions: Sequence[str] = PRECISIONS,
) -> str:
    """Compare the labels of every precision on u8[N,48,48] images; ``python`` is that there."""
    images = check.work / f"{name}.npz"
    np.savez(images, images=pixels)
    try:
        script = check.work / "labels.py"
        shutil.copy(SCRIPT, script)
        theirs, ours = check.work / f"{name}-there.npz", check.work / f"{name}-here.npz"
        files = (f"/checked/{bundle}", f"/checked/{images.name}", f"/checked/{theirs.name}")
        there(check, python, "/checked/labels.py", backend, *files, *precisions)
        own = (script, backend, check.work / bundle, images, ours)
        check.here(sys.executable, *own, *precisions)
        with np.load(ours) as a, np.load(theirs) as b:
            return compare({p: a[p] for p in precisions}, {p: b[p] for p in precisions})
    finally:
        images.unlink()  # real images stay nowhere


HALF = 0.05
"""Logits by which FP16 may differ: a few units in the last place of its largest values."""


def compare(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> str:
    """Return what was found; :class:`StepError` if a label differs.

    In FP16 this machine may compute in FP32, and an ARM CPU in FP16: there, a label may differ
    where the two classes are nearer to each other than the logits of the two machines.
    """
    parts, different = [], []
    for precision, logits in ours.items():
        found = theirs[precision]
        changed = logits.argmax(1) != found.argmax(1)
        largest = np.abs(logits - found).max()
        parts.append(f"{precision} within {largest:.1e}")
        if precision == "fp16" and largest <= HALF:
            second, first = np.sort(logits[changed].astype(np.float64), 1)[:, -2:].T
            ties = int((first - second <= 2 * largest).sum())
            parts[-1] += f" ({ties} near ties differ)" if ties else ""
            changed[np.flatnonzero(changed)[first - second <= 2 * largest]] = False
        flips = int(changed.sum())
        if flips or not np.isfinite(found).all():
            different.append(f"{precision}: {flips} of {len(logits)} labels differ")
    if different:
        raise StepError("; ".join(different))
    return f"{len(logits)} labels equal; logits: {', '.join(parts)}"


def faces(count: int) -> np.ndarray:
    """Return u8[N,48,48]: synthetic faces, at most 500."""
    from fer_edge.data import load

    return load("synthetic:500").images[:count]


def found(text: str, key: str) -> list[Any]:
    """Return the values of a key anywhere in one JSON document, or in lines of JSON."""
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    values: list[Any] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            for name, inside in value.items():
                if name == key and not isinstance(inside, dict | list):
                    values.append(inside)
                walk(inside)
        elif isinstance(value, list):
            for inside in value:
                walk(inside)

    walk(documents)
    return values
