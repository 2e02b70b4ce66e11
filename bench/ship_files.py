"""The files of a packaged bundle: which ones are chosen, written and checked by ``ship.py``."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fer_edge.backends import backend_class
from fer_edge.build.card import int8_lines, measured_results
from fer_edge.build.steps import CHECKPOINT, FP16, FP32
from fer_edge.bundle import GOLDEN, MANIFEST, Artifact, Bundle, BundleWriter, Manifest
from fer_edge.bundle.usable import BEST_FIRST, engines_of
from fer_edge.classifier import Classifier
from fer_edge.convert.golden import golden_images
from fer_edge.errors import UsageError
from fer_edge.measure.record import VERIFY_FILE
from fer_edge.progress import Reporter
from fer_edge.records import to_dict

LIMIT = 8_000_000
"""Bytes of the whole bundle, including the manifest."""

REQUIRED = (FP32, FP16, "model.int8.onnxruntime.onnx", "model.int8.tensorrt.onnx", GOLDEN)
OPTIONAL = (
    "model.int8.tensorrt.all-int8.onnx",
    "model.int8.onnxruntime.full.onnx",
    "model.int8.openvino.onnx",
    CHECKPOINT,
)
"""Added in this order if they fit."""

MARGIN = 20_000
"""Bytes by which names and commands may increase the manifest."""


def put_into_package(
    built: Bundle,
    output: Path,
    staging: Path,
    name: str,
    training: dict[str, Any],
    limit: int,
    reporter: Reporter,
) -> Bundle:
    """Write what is shipped of ``built``, check it, and swap it with what is at ``output``."""
    chosen = chosen_files(built, limit, reporter)
    staged = stage(built, chosen, staging, name, training)
    _check(staged, limit, reporter)
    with BundleWriter(output, base=staged):
        pass
    shipped = Bundle.open(output)
    if shipped.unlisted():
        raise UsageError(
            f"{output} has files that do not belong to it: {', '.join(shipped.unlisted())}"
        )
    reporter.note(f"shipped: {output}, {_size(shipped):,} bytes")
    return shipped


def chosen_files(built: Bundle, limit: int, reporter: Reporter) -> list[Artifact]:
    """Return the files to ship; raises :class:`UsageError` if the required ones do not fit."""
    chosen = [built.artifact(path=path) for path in (*REQUIRED, VERIFY_FILE)]
    rest = (built.path / MANIFEST).stat().st_size + MARGIN
    used = rest + sum(artifact.size for artifact in chosen)
    if used > limit:
        sizes = ", ".join(f"{artifact.path} {artifact.size:,}" for artifact in chosen)
        raise UsageError(
            f"the bundle would have {used:,} bytes, more than {limit:,}: {sizes}",
            fix="ship a smaller network (8 bytes per parameter: fp32 4, fp16 2, two int8 graphs 2)",
        )
    for path in OPTIONAL:
        artifact = built.find(path=path)
        if artifact is None:
            continue
        if used + artifact.size > limit:
            reporter.note(
                f"left out: {path} has {artifact.size:,} bytes; {used:,} of {limit:,} are used"
            )
            continue
        used += artifact.size
        chosen.append(artifact)
    return chosen


def stage(
    built: Bundle, chosen: Sequence[Artifact], path: Path, name: str, training: dict[str, Any]
) -> Bundle:
    """Write the bundle as it will be shipped; each file keeps the digest of its parent."""
    manifest = built.manifest
    digests = {artifact.sha256 for artifact in chosen}
    held = {artifact.key for artifact in chosen}
    with BundleWriter(path) as writer:
        for artifact in chosen:
            add_as_listed(writer, built, artifact)
        writer.set(
            name=name,
            synthetic=manifest.synthetic,
            preprocessing=manifest.preprocessing,
            input=manifest.input,
            output=manifest.output,
            model=manifest.model,
            calibration=manifest.calibration,
            dataset=manifest.dataset,
            environment=manifest.environment,
            card={
                **to_dict(manifest.card),
                "training": training,
                "protocol": _protocol(manifest, held),
                "results": measured_results(verifications_of(built), digests),
            },
        )
        for gate in manifest.gates:
            if gate.key in held:
                writer.add_gate(gate)
    return Bundle.open(path)


def _protocol(manifest: Manifest, held: Collection[tuple[str, ...]]) -> list[str]:
    """Return the card's protocol, without what it says of graphs that are left out."""
    kept = [line for line in manifest.card.protocol if not line.startswith("INT8 for ")]
    return [*kept, *int8_lines([to_dict(each) for each in manifest.gates if each.key in held])]


def _check(staged: Bundle, limit: int, reporter: Reporter) -> None:
    """Check the size of the bundle, that its golden images are synthetic, and its engines."""
    size = _size(staged)
    if size > limit:
        raise UsageError(f"the bundle has {size:,} bytes, more than {limit:,}")
    images, _ = staged.golden()
    if not np.array_equal(images, golden_images()):
        raise UsageError(
            "the golden images are not the synthetic ones: an image of a person is never shipped"
        )
    for backend in ("onnxruntime", "openvino"):
        reason = backend_class(backend).unavailable_reason()
        if reason:
            reporter.note(f"not tested: {backend}: {reason}")
            continue
        for precision in BEST_FIRST:
            if not engines_of(staged, backend_class(backend), precision):
                continue
            with Classifier(staged, backend=backend, precision=precision) as classifier:
                test = classifier.self_test
                reporter.note(
                    f"{backend} {precision}: self-test, max |delta logit| {test.max_abs:.1e}"
                )


def _size(bundle: Bundle) -> int:
    return sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())


def add_as_listed(writer: BundleWriter, bundle: Bundle, artifact: Artifact) -> None:
    """Add a file of ``bundle`` as its manifest lists it, with the digest of its parent."""
    writer.add_bytes(
        bundle.read(artifact),
        artifact.path,
        format=artifact.format,
        precision=artifact.precision,
        target=artifact.target,
        parent=artifact.parent_sha256,
        meta=artifact.meta,
        variant=artifact.variant,
    )


def verifications_of(bundle: Bundle) -> list[dict[str, Any]]:
    """Return what was measured of a bundle's engines, as its file of verifications has it."""
    found: list[dict[str, Any]] = json.loads(bundle.read(bundle.artifact(path=VERIFY_FILE)))[
        "verifications"
    ]
    return found
