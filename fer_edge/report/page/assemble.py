"""Put the report together: which sections there are, in which order, from what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from fer_edge.bundle import Bundle
from fer_edge.measure.environment import machine_of
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.measure.result import BenchResult
from fer_edge.report.page.accuracy import (
    confusion_blocks,
    flip_blocks,
    recall_blocks,
    reliability_blocks,
)
from fer_edge.report.page.blocks import Block, Heading, Page, Section
from fer_edge.report.page.chosen import Chosen, check_rows, choose
from fer_edge.report.page.headline import headline, lead_lines
from fer_edge.report.page.origin import (
    about_blocks,
    calibration_blocks,
    chain_blocks,
    environment_blocks,
    gate_blocks,
    measured_files_blocks,
    recall_limits,
)
from fer_edge.report.page.speed import latency_blocks, tradeoff_blocks
from fer_edge.report.responsible import RESPONSIBLE_USE
from fer_edge.report.table import images_text
from fer_edge.version import __version__

if TYPE_CHECKING:
    from fer_edge.data import FerDataset
    from fer_edge.report.page.compare import Compared

__all__ = ["page_of"]

_PROTOCOL_FIELDS = set(LatencyProtocol.__dataclass_fields__)


def page_of(
    result: BenchResult,
    bundles: Mapping[str, Bundle] | None = None,
    *,
    dataset: FerDataset | None = None,
    compared: Mapping[str, Compared] | None = None,
    faces: bool = False,
) -> Page:
    """Return the report of ``result``, with what ``bundles`` record of the networks.

    ``bundles`` and ``compared`` are by the names that the rows have. ``dataset`` (the whole data
    set) counts the classes of the calibration images; ``compared`` has the images whose answers
    differ, and ``faces`` shows them. UsageError for a number that cannot be shown: a saved result
    may have any.
    """
    check_rows(result)
    bundles, compared = bundles or {}, compared or {}
    all_chosen = [choose(result, name) for name in result.bundles or ("",)]
    sections = [
        Section("tradeoff", "Accuracy and speed", tradeoff_blocks(result, "fig-tradeoff")),
        *_of_bundles("gate", "Gate", bundles, lambda bundle: gate_blocks(bundle.manifest)),
        Section("latency", "Latency", latency_blocks(result, "fig-latency")),
        *_accuracy_sections(all_chosen, bundles),
        *_flip_sections(compared, faces),
        *_of_bundles(
            "calibration",
            "Calibration",
            bundles,
            lambda bundle: calibration_blocks(bundle.manifest, dataset),
        ),
        *_of_bundles("digests", "Digest chain", bundles, chain_blocks),
    ]
    if not bundles:
        sections.append(Section("digests", "Digests", measured_files_blocks(result)))
    sections += [
        Section("environment", "Environment", environment_blocks(result.environment)),
        *_of_bundles(
            "about", "About the network", bundles, lambda bundle: about_blocks(bundle.manifest)
        ),
    ]
    return Page(
        title=f"fer-edge report: {', '.join(result.bundles) or 'bench'}",
        headline=headline(all_chosen[0]),
        lines=_lines(result, all_chosen),
        warnings=_warnings(result, bundles, compared if faces else {}),
        facts=_facts(result),
        sections=sections,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        fer_edge=__version__,
        responsible=RESPONSIBLE_USE,
    )


def _lines(result: BenchResult, all_chosen: Sequence[Chosen]) -> list[str]:
    """Return what stands below the key sentence, which is about the first network."""
    first, *others = all_chosen
    lines = lead_lines(result, first)
    if others:
        lines.insert(0, f"This is the network {first.bundle}.")
        lines += [f"The network {one.bundle}: {headline(one)}" for one in others]
    return lines


def _of_bundles(
    name: str, title: str, bundles: Mapping[str, Bundle], of: Callable[[Bundle], list[Block]]
) -> list[Section]:
    """Return a section with the blocks of each bundle; none without bundles."""
    blocks: list[Block] = []
    for label, bundle in bundles.items():
        blocks += [Heading(label)] if len(bundles) > 1 else []
        blocks += of(bundle)
    return [Section(name, title, blocks)] if blocks else []


def _flip_sections(compared: Mapping[str, Compared], faces: bool) -> list[Section]:
    blocks: list[Block] = []
    for label, one in compared.items():
        blocks += [Heading(label)] if len(compared) > 1 else []
        blocks += flip_blocks(one.flips, title=one.small, source=one.source, faces=faces)
    return [Section("flips", "Changed answers", blocks)] if blocks else []


def _accuracy_sections(
    all_chosen: Sequence[Chosen], bundles: Mapping[str, Bundle]
) -> list[Section]:
    parts: dict[str, list[Block]] = {"confusion": [], "recall": [], "reliability": []}
    for place, chosen in enumerate(all_chosen):
        if len(all_chosen) > 1:
            for blocks in parts.values():
                blocks.append(Heading(chosen.bundle))
        bundle = bundles.get(chosen.bundle)
        small = chosen.small
        limits = {}
        if bundle is not None and small is not None:
            limits = recall_limits(bundle.manifest, small.artifact_sha256)
        parts["confusion"] += confusion_blocks(chosen)
        parts["recall"] += recall_blocks(chosen, limits, f"fig-recall-{place}")
        parts["reliability"] += reliability_blocks(chosen, f"fig-reliability-{place}")
    titles = {
        "confusion": "Confusion",
        "recall": "Recall by class",
        "reliability": "Reliability",
    }
    return [Section(name, titles[name], blocks) for name, blocks in parts.items()]


def _warnings(
    result: BenchResult, bundles: Mapping[str, Bundle], shown: Mapping[str, Compared]
) -> list[str]:
    """Return what a reader must know first; ``shown`` are the comparisons with faces."""
    lines = [
        f"This file shows faces from {source}: do not publish it and do not pass it on."
        for source in dict.fromkeys(one.source for one in shown.values() if one.source)
    ]
    synthetic = any(bundle.manifest.synthetic for bundle in bundles.values())
    if result.dataset.get("synthetic") or synthetic:
        lines.append("SYNTHETIC: faces were drawn by a program; such scores say nothing of people.")
    if result.protocol.get("quick"):
        lines.append("QUICK: the times were measured for a minute; use them for a first look.")
    warnings = result.environment.get("warnings")
    lines += [str(one) for one in warnings] if isinstance(warnings, list) else []
    return [line[:1].upper() + line[1:] for line in (*lines, *result.notes)]


def _facts(result: BenchResult) -> list[tuple[str, str]]:
    facts = [("Images", images_text(result.dataset, str(result.dataset.get("split"))))]
    if result.dataset.get("labels") == "votes" or any(row.votes for row in result.rows):
        facts.append(("Labels", "the majority of ten people's votes (FER+)"))
    facts.append(("Reference", result.reference))
    if result.environment:
        facts.append(("Machine", machine_of(result.environment)))
        threads = result.environment.get("threads")
        facts.append(("Threads", str(threads)))
    if result.protocol:
        known = {k: v for k, v in result.protocol.items() if k in _PROTOCOL_FIELDS}
        facts.append(("Timing", LatencyProtocol(**known).describe()))
    facts.append(("Measured", f"{result.created} by fer-edge {result.fer_edge}"))
    return facts
