"""A bench whose every number is known, for the tests of the HTML report: no engine runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np

from fer_edge.emotions import EMOTIONS
from fer_edge.measure.accuracy import compare, evaluate
from fer_edge.measure.latency import LatencyProtocol, LatencySamples
from fer_edge.measure.result import BenchResult, BenchRow

__all__ = ["ENVIRONMENT", "Html", "Node", "made_result", "made_row"]

ENVIRONMENT: dict[str, Any] = {
    "machine": {
        "host": "aaaaaaaaaaaa",
        "arch": "x86_64",
        "cpu": "A CPU",
        "cores": 2,
        "gpu": [],
        "jetson": None,
    },
    "threads": 1,
    "power_mode": None,
    "packages": {"onnxruntime": "1.0"},
    "warnings": ["the machine is busy"],
}


def made_row(
    precision: str,
    milliseconds: float,
    *,
    backend: str = "onnxruntime",
    noise: float = 0.6,
    names: Sequence[str] = EMOTIONS,
    reference: bool = False,
) -> BenchRow:
    """Return a row of 140 answers, of which about half are right, and three repeats of times."""
    generator = np.random.default_rng(7)
    count = len(names)
    labels = (np.arange(140) % count).astype(np.uint8)
    base = generator.normal(size=(140, count)).astype(np.float32)
    base[np.arange(140), labels] += 1.5
    logits = base + (generator.normal(0, noise, base.shape).astype(np.float32) if noise else 0)
    ns = (generator.gamma(9.0, milliseconds / 9, (3, 700)) * 1e6 + 1).astype(np.int64)
    row = BenchRow(
        backend,
        precision,
        "ok",
        bundle="mine",
        provider="CPU",
        artifact=f"model.{precision}.onnx",
        artifact_sha256=("a" if precision == "fp32" else "b") * 64,
        size_bytes=1_000_000,
    )
    agreement = None if reference else compare(base, logits, labels)
    row = row.with_accuracy(evaluate(logits, labels, names=tuple(names)), agreement)
    return row.with_latency(LatencySamples(tuple(ns)))


def made_result(names: Sequence[str] = EMOTIONS, **changed: Any) -> BenchResult:
    """Return a bench of PyTorch, FP32 and INT8, a row that did not run, and the null backend."""
    fp32 = made_row("fp32", 1.0, noise=0, names=names)
    int8 = made_row("int8", 0.4, names=names)
    assert fp32.p50_ms
    assert int8.p50_ms
    rows = (
        BenchRow("null", "", "ok", note="harness floor", p50_ms=0.002, p90_ms=0.003),
        made_row("fp32", 3.0, backend="pytorch", noise=0, names=names, reference=True),
        fp32,
        replace(int8, speedup=fp32.p50_ms / int8.p50_ms),
        BenchRow("openvino", "int8", "unavailable", bundle="mine", note="no openvino here"),
    )
    result = BenchResult(
        rows=rows,
        environment=ENVIRONMENT,
        protocol=LatencyProtocol(repeats=3).to_dict(),
        dataset={
            "source": "fer2013.zip",
            "sha256": "1" * 64,
            "synthetic": False,
            "n": 140,
            "split": "public",
        },
        reference="pytorch fp32",
        created="2026-11-28T00:00:00+00:00",
        fer_edge="0.1.0",
        notes=("partial copy of FER2013: private absent",),
    )
    return replace(result, **changed)


class Node:
    """An element of a page: its name, attributes, children, and the text inside it."""

    def __init__(self, name: str, attributes: dict[str, str | None], parent: Node | None) -> None:
        self.name, self.attributes, self.parent = name, attributes, parent
        self.children: list[Node] = []
        self.own: list[str | Node] = []

    @property
    def text(self) -> str:
        """All text inside, with single spaces."""
        parts = [part if isinstance(part, str) else part.text for part in self.own]
        return " ".join(" ".join(parts).replace("\u00a0", " ").split())

    def all(self, name: str, where: Callable[[Node], bool] = lambda node: True) -> list[Node]:
        """Return the elements of a name below this one, in order."""
        found = []
        for child in self.children:
            if child.name == name and where(child):
                found.append(child)
            found += child.all(name, where)
        return found

    def rows(self) -> list[list[str]]:
        """Return the cells of a table, its head first."""
        return [
            [cell.text for cell in row.children if cell.name in {"th", "td"}]
            for row in self.all("tr")
        ]


class Html(HTMLParser):
    """A page as a tree; AssertionError for a tag that is closed in the wrong place."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr", "base"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.root = self._at = Node("", {}, None)
        self.feed(text)
        self.close()
        assert self._at is self.root, f"<{self._at.name}> is not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs), self._at)
        self._at.children.append(node)
        self._at.own.append(node)
        if tag not in self.VOID:
            self._at = node

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs), self._at)
        self._at.children.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self._at.name, f"</{tag}> closes <{self._at.name}>"
        assert self._at.parent is not None
        self._at = self._at.parent

    def handle_data(self, data: str) -> None:
        self._at.own.append(data)

    def every(self) -> list[Node]:
        """Return all elements."""
        found, queue = [], [self.root]
        while queue:
            node = queue.pop()
            found.append(node)
            queue += node.children
        return found
