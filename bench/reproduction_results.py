"""The result of a run or a cross-validation, as a small JSON file from which the table is made."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from reproduction_rows import Row

from fer_edge import __version__
from fer_edge.bundle import Bundle
from fer_edge.data import FerDataset
from fer_edge.data.resplit import OFFICIAL, recorded_resplit
from fer_edge.data.resplitting import resplit_as_recorded
from fer_edge.errors import UsageError
from fer_edge.files import sha256_file
from fer_edge.measure.environment import capture, machine_of
from fer_edge.measure.evaluation import evaluate_engine
from fer_edge.provenance import DatasetInfo
from fer_edge.records import plain, to_dict
from fer_edge.runs.cross_validation import CrossValidation
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import load_recipe

RESULTS = Path(__file__).resolve().parent / "results" / "reproduction"
SCHEMA = 1

_MANY = 64
"""Images per call: accuracy only, no times."""


def seconds_spent(run: RunFolder) -> list[float]:
    """Return the seconds of each epoch so far, scoring included."""
    path = run.path / "history.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [float(row["seconds"]) for row in csv.DictReader(file)]


def bundle_of(run: RunFolder) -> Path:
    """Return the folder of a run's bundle."""
    return run.path / "bundle"


def weights_of(run: RunFolder) -> Path:
    """Return the weights that a run's engines are made from: the best ones if it has them."""
    return run.best if run.best.is_file() else run.model


def current_bundle(run: RunFolder) -> Bundle | None:
    """Return a run's bundle; None if there is none, or if the run was trained further since."""
    if not (bundle_of(run) / "manifest.json").is_file():
        return None
    bundle = Bundle.open(bundle_of(run))
    checkpoint = bundle.find(format="safetensors")
    same = checkpoint is not None and checkpoint.sha256 == sha256_file(weights_of(run))
    return bundle if same else None


def collect_run(run: RunFolder, row: Row, dataset: FerDataset | None = None) -> dict[str, Any]:
    """Return the result of a run that has finished or was stopped, and of its engines.

    Engines of earlier weights are left out. With ``dataset``, as the run read it, a naive row also
    has the accuracy over the test images that are no copies of training images. Raises UsageError
    if no epoch is finished.
    """
    info = run.info()
    recipe = run.recipe()
    spent = seconds_spent(run)
    if info.last is None or not spent:
        raise UsageError(f"the run {run.path} has no finished epoch", fix="train it further")
    last, of = info.last.epoch, load_recipe(row.recipe, row.changes).epochs
    stopped = "" if last >= of else "time limit"
    if info.status == "finished":
        stopped = "early stopping" if last < recipe.epochs else stopped
    result = {
        **_head(row, info.recipe, info.dataset),
        "kind": "run",
        "epochs": {"run": last, "of": of, "stopped": stopped},
        "minutes": round(sum(spent) / 60, 2),
        "seed": recipe.seed,
        "monitor": recipe.stop.monitor,
        "last": plain(info.last),
        "best": plain(info.best),
        "run": run.name,
        "engines": [],
        "gates": [],
    }
    if row.naive and dataset is not None:
        result["without_copies"] = _without_copies(run, dataset)
    bundle = current_bundle(run)
    if bundle is not None:
        result.update(_engines(bundle))
    return result


def _without_copies(run: RunFolder, dataset: FerDataset) -> dict[str, Any]:
    """Return how many test images are no copies of training images, and the best weights' top-1."""
    from fer_edge.backends.pytorch import PyTorchBackend

    split = resplit_as_recorded(dataset, run.info().dataset, f"the run {run.path}")
    with PyTorchBackend(weights_of(run)) as engine:
        scores = evaluate_engine(engine, split, subject=run.name, batch=_MANY).accuracy
    return {
        "n": scores.n_without_duplicates,
        "of": scores.n,
        "best_top1": scores.top1_without_duplicates,
        "best_top1_of_all": scores.top1,
    }


def collect_folds(path: Path, row: Row) -> dict[str, Any]:
    """Return the result of a cross-validation; raises UsageError if a fold is missing."""
    info = CrossValidation(path).info()
    if info.status != "finished":
        raise UsageError(
            f"the cross-validation {path} has not finished",
            fix=f"fer-edge train --resume {path}",
        )
    seconds = [s for i in range(info.folds) for s in seconds_spent(_fold(path, i))]
    epochs = max(result.epochs for result in info.results)
    of = load_recipe(row.recipe, row.changes).epochs
    stopped = "" if epochs >= of else "time limit"
    if any(result.epochs < info.recipe["epochs"] for result in info.results):
        stopped = "early stopping"
    return {
        **_head(row, info.recipe, info.dataset),
        "kind": "folds",
        "epochs": {"run": epochs, "of": of, "stopped": stopped},
        "minutes": round(sum(seconds) / 60, 2),
        "seed": info.seed,
        "folds": plain(info.results),
        "summary": plain(info.summary),
        "run": path.name,
        "engines": [],
        "gates": [],
    }


def _fold(path: Path, at: int) -> RunFolder:
    return RunFolder(path / f"fold-{at + 1}")


def _head(row: Row, recipe: dict[str, Any], dataset: DatasetInfo) -> dict[str, Any]:
    environment = capture(1)
    resplit = recorded_resplit(dataset)
    return {
        "schema": SCHEMA,
        "row": row.name,
        "recipe": row.recipe,
        "changes": list(row.changes),
        "model": {"name": recipe["model"]["name"], "options": recipe["model"]["options"]},
        "data": {
            "source": Path(dataset.source or "").name,
            "sha256": dataset.sha256,
            "synthetic": dataset.synthetic,
            "split": resplit.label if resplit else OFFICIAL,
        },
        "machine": machine_of(environment),
        "packages": {
            name: version
            for name, version in environment["packages"].items()
            if name in {"torch", "onnxruntime", "openvino"}
        },
        "git": environment["git"],
        "fer_edge": __version__,
        "collected": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _engines(bundle: Bundle) -> dict[str, Any]:
    """Return times, accuracies and gates of a bundle's engines, matched by their files."""
    checkpoint = bundle.find(format="safetensors")
    proofs = [
        proof
        for proof in _json(bundle, "verify.json").get("verifications", [])
        if checkpoint and proof["reference"]["artifact_sha256"] == checkpoint.sha256
    ]
    bench = _json(bundle, "bench.json")
    engines = []
    for timed in bench.get("rows", []):
        if timed["backend"] == "null":
            continue
        proof = _proof(proofs, timed)
        engines.append(
            {
                **{name: timed[name] for name in ("backend", "precision", "status", "note")},
                **{name: timed[name] for name in ("p50_ms", "p90_ms", "cv", "speedup")},
                "size_bytes": timed["size_bytes"],
                **proof,
            }
        )
    gates = [
        {
            **{name: gate.get(name) for name in ("precision", "target", "passed", "status")},
            **{name: gate.get(name) for name in ("reason", "top1", "n", "flips", "use_instead")},
            "attempts": len(gate.get("attempts", ())),
            "excluded": (gate.get("attempts") or [{"excluded": []}])[-1]["excluded"],
            "weights": [score["weights"] for score in gate.get("weights", ())][:1],
            "costliest": [cost["node"] for cost in gate.get("costs", ())][:3],
        }
        for gate in map(to_dict, bundle.manifest.gates)
    ]
    model = bundle.manifest.model
    content = {"engines": engines, "gates": gates, "protocol": bench.get("protocol")}
    if proofs:
        kinds = {"backend": "pytorch", "precision": "fp32"}
        content["reference"] = {**kinds, "top1": proofs[0]["reference"]["top1"]}
    return {**content, "cost": {name: getattr(model, name) for name in ("parameters", "macs")}}


def _proof(proofs: Sequence[dict[str, Any]], timed: dict[str, Any]) -> dict[str, Any]:
    """Return the accuracy of the file that was timed, from the build's proof on every image."""
    for proof in proofs:
        engine = proof["engine"]
        if timed["backend"] == "pytorch":
            return {"top1": proof["reference"]["top1"], "n": proof["n"], "flips": 0}
        if (engine["backend"], engine["artifact_sha256"]) == (
            timed["backend"],
            timed["artifact_sha256"],
        ):
            return {"top1": engine["top1"], "n": proof["n"], "flips": proof["flips"]}
    return {"top1": None, "n": None, "flips": None}


def _json(bundle: Bundle, name: str) -> dict[str, Any]:
    listed = bundle.find(path=name)
    if listed is None:
        return {}
    content: dict[str, Any] = json.loads(bundle.file(listed).read_text(encoding="utf-8"))
    return content


def results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Return all saved results by their row."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("schema") != SCHEMA:
            raise UsageError(
                f"{path} has schema {content.get('schema')}, this script reads {SCHEMA}",
                fix="use the version of this script that wrote the file",
            )
        found[content["row"]] = content
    return found


def searches(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the files of ``folder/searches``, each an output of ``fer-edge search --format json``.

    The key ``file`` is the file's name. It contains the machine, since several machines can run
    the same study.
    """
    paths = sorted((folder / "searches").glob("*.json"))
    return [{**json.loads(path.read_text(encoding="utf-8")), "file": path.name} for path in paths]
