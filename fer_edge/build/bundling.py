"""A build's results -> a bundle: the files, the chain of digests, the gates, the card."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from fer_edge.build.card import foreign_card, int8_lines, measured_results, model_card
from fer_edge.build.steps import CHECKPOINT, FP16, FP32, Work
from fer_edge.bundle import GOLDEN, Artifact, Bundle, BundleWriter
from fer_edge.convert.golden import golden_bytes, golden_images
from fer_edge.convert.graph import metadata
from fer_edge.measure.environment import capture
from fer_edge.measure.record import VERIFY_FILE, verifications_of, with_verification
from fer_edge.quantize.facts import dla_facts
from fer_edge.records import to_dict
from fer_edge.trt.dla import DLA_FACTS, dla_facts_bytes

if TYPE_CHECKING:
    from fer_edge.build.attempts import Int8Result
    from fer_edge.build.target import BuildTarget

__all__ = ["write_bundle"]


def write_bundle(
    work: Work,
    *,
    int8: Int8Result | None,
    calibration: dict[str, Any] | None,
    synthetic: bool,
) -> None:
    """Write the bundle, or add to the one that is there.

    An INT8 graph that failed its gate is not written. An older one of the same target is removed,
    because it would be mistaken for the result. ``calibration`` is what the manifest records of it;
    ``synthetic``: whether synthetic faces were used for training or calibration.
    """
    source, target, network = work.source, work.target, work.network
    with BundleWriter(source.output, base=source.base) as writer:
        checkpoint = None
        if source.weights is not None:
            checkpoint = writer.add_file(source.weights, CHECKPOINT, format="safetensors")
        fp32 = writer.add_file(
            network.graph.path, FP32, format="onnx", precision="fp32", parent=checkpoint
        )
        if (work.folder / FP16).is_file():
            writer.add_file(work.folder / FP16, FP16, format="onnx", precision="fp16", parent=fp32)
        converted = target.artifact("fp32")
        if target.format != "onnx" and (work.folder / converted).is_file():
            writer.add_file(
                work.folder / converted,
                converted,
                format=target.format,
                precision="fp32",
                target=target.placement,
                parent=fp32,
            )
        if int8 is not None:
            _add_int8(writer, int8, target, fp32)
            _add_dla_facts(writer, int8, work)
        writer.add_bytes(golden_bytes(golden_images(), network.logits), GOLDEN, format="npz")
        digests = {artifact.sha256 for artifact in writer.artifacts()}
        verified = _add_verifications(work, writer, source.base, digests)
        results = measured_results(verified, digests)
        writer.set(
            name=source.name,
            synthetic=synthetic,
            preprocessing=network.preprocessing.to_dict(),
            labels=network.labels,
            input=network.input,
            output=network.output,
            model=network.model,
            dataset=network.info.dataset,
            environment=capture(work.threads),
            card=_with_int8(_card(work, synthetic, results), work),
        )
        if calibration is not None:
            writer.set(calibration=calibration)
        for gate in work.gates:
            writer.add_gate(gate)


def _add_int8(
    writer: BundleWriter, int8: Int8Result, target: BuildTarget, parent: Artifact
) -> None:
    """Write the graphs that passed, and remove all others of this placement."""
    passed = {each.engine.artifact: each for each in (int8, *int8.variants) if each.passed}
    for old in writer.artifacts():
        key = (old.format, old.precision, old.target)
        if key == (target.format, "int8", target.placement) and old.path not in passed:
            writer.remove(old.path)
    for name, each in passed.items():
        writer.add_file(
            each.engine.path,
            name,
            format=target.format,
            precision="int8",
            target=target.placement,
            parent=parent,
            meta=dict(each.report.meta),
            variant=each.variant,
        )


def _add_dla_facts(writer: BundleWriter, int8: Int8Result, work: Work) -> None:
    """Write what a build for a DLA reads beside the graph; it goes with the INT8 graph."""
    if work.target.placement == "dla" and int8.passed:
        half, left = work.target.remainder == "fp16", int8.choice.exclude
        facts = dla_facts(work.network.graph, int8.ranges, left, half_scales=half)
        content, graph = dla_facts_bytes(facts), int8.engine.artifact
        writer.add_bytes(content, DLA_FACTS, format="json", target="dla", parent=graph)


def _card(work: Work, synthetic: bool, results: list[dict[str, Any]]) -> dict[str, Any]:
    source = work.source
    if source.weights is None and source.given is None and not _is_ours(work):
        return foreign_card(results, source.foreign.assumed if source.foreign else None)
    card = model_card(synthetic=synthetic, weights=work.network.info, results=results)
    if source.weights is not None or source.given is None:
        return card
    # A graph records little of the training: keep what the card of its bundle records.
    before = to_dict(source.given.manifest.card)
    return {**before, "results": card["results"]} if before else card


def _with_int8(card: dict[str, Any], work: Work) -> dict[str, Any]:
    """Add to the protocol how each INT8 graph of the bundle was chosen."""
    base = work.source.base
    gates = [to_dict(gate) for gate in base.manifest.gates] if base else []
    key = ("precision", "target", "variant")
    latest = {tuple(gate.get(name, "") for name in key): gate for gate in (*gates, *work.gates)}
    kept = [line for line in card["protocol"] if not line.startswith("INT8 for ")]
    return {**card, "protocol": [*kept, *int8_lines(list(latest.values()))]}


def _is_ours(work: Work) -> bool:
    """Return whether fer-edge exported the FP32 graph: its metadata then names the version."""
    return "fer_edge.version" in metadata(work.network.graph.model)


def _add_verifications(
    work: Work, writer: BundleWriter, base: Bundle | None, digests: Collection[str]
) -> list[dict[str, Any]]:
    """Add the results to ``verify.json``, where ``fer-edge verify`` writes its results, too.

    Results of files that are no longer among ``digests``, mostly of earlier weights, are left out.
    Returns all results that the file contains.
    """
    listed = base.find(path=VERIFY_FILE) if base else None
    text = base.read(listed).decode("utf-8", "replace") if base and listed else None
    text = text and verifications_of(text, digests)
    for proven in work.proven.values():
        text = with_verification(text, proven.verification.to_dict())
    if text is None:
        return []
    writer.add_bytes(text.encode("utf-8"), VERIFY_FILE, format="json")
    verifications: list[dict[str, Any]] = json.loads(text)["verifications"]
    return verifications
