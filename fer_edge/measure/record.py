"""Results that are recorded in the bundle: ``verify.json`` and ``bench.json``.

``verify.json`` has ``{schema, verifications: [...]}``: the newest verification for each backend,
precision, file, split and kind of labels. ``bench.json`` is the summary of the last bench, without
the raw nanoseconds, since a bundle is copied to devices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.errors import FerEdgeError
from fer_edge.files import parse_json
from fer_edge.pretrained import is_packaged
from fer_edge.records import OpenRecord, read_record, to_dict

if TYPE_CHECKING:
    from fer_edge.measure.result import BenchResult

__all__ = [
    "BENCH_FILE",
    "VERIFY_FILE",
    "record_bench",
    "record_verification",
    "verifications_of",
    "with_verification",
]

BENCH_FILE = "bench.json"
"""The summary of ``fer-edge bench`` in a bundle."""
VERIFY_FILE = "verify.json"
"""The results of ``fer-edge verify`` in a bundle."""
VERIFY_SCHEMA = 1


def with_verification(before: str | None, verification: Mapping[str, Any]) -> str:
    """Return the text of ``verify.json`` with a verification added, or the older one replaced.

    ``before`` is the current text of the file; None if there is no file. Other entries stay
    unchanged.
    """

    def key(one: Mapping[str, Any]) -> tuple[Any, ...]:
        engine = one["engine"]
        # The artifact too: ONNX Runtime can also run the INT8 graph with TensorRT's placement.
        labels = one.get("dataset", {}).get("labels")
        return engine["backend"], engine["precision"], engine.get("artifact"), one["split"], labels

    old = _read(before) if before else []
    kept = [one for one in old if key(one) != key(verification)]
    return _text([*kept, verification])


def verifications_of(text: str, digests: Collection[str]) -> str:
    """Return ``verify.json``'s ``text`` without engines whose SHA-256 is not in ``digests``."""
    return _text([one for one in _read(text) if one["engine"].get("artifact_sha256") in digests])


class _Engine(OpenRecord, frozen=True, kw_only=True, eq=False):
    backend: str
    precision: str
    artifact: str | None = None
    artifact_sha256: str | None = None


class _Dataset(OpenRecord, frozen=True, kw_only=True, eq=False):
    labels: str | None = None


class _Verification(OpenRecord, frozen=True, kw_only=True, eq=False):
    engine: _Engine
    split: str
    dataset: _Dataset = _Dataset()


class _File(OpenRecord, frozen=True, kw_only=True, eq=False):
    verifications: tuple[_Verification, ...]


def _read(text: str) -> list[dict[str, Any]]:
    """Return the entries of ``verify.json``; IntegrityError names a field that is wrong."""
    return [
        to_dict(one)
        for one in read_record(_File, parse_json(text, VERIFY_FILE), VERIFY_FILE).verifications
    ]


def _text(verifications: Sequence[Mapping[str, Any]]) -> str:
    content = {"schema": VERIFY_SCHEMA, "verifications": verifications}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def record_verification(path: Path, verification: Mapping[str, Any]) -> str | None:
    """Record a ``Verification.to_dict()`` in the bundle at ``path``; return why not, or None.

    A gate that the build recorded keeps its result and gets the key ``verified``; an engine without
    a gate gets the gate of this verification.
    """
    engine = verification["engine"]
    verdict = {
        name: verification[name] for name in ("created", "split", "n", "passed", "status", "flips")
    }
    verdict["dataset_sha256"] = verification["dataset"]["sha256"]

    def write(bundle: Bundle, writer: BundleWriter) -> None:
        listed = bundle.find(path=VERIFY_FILE)
        before = bundle.read(listed).decode("utf-8", "replace") if listed else None
        text = with_verification(before, verification)
        writer.add_bytes(text.encode("utf-8"), VERIFY_FILE, format="json")
        artifact = bundle.find(path=engine["artifact"])
        key = artifact.key if artifact else (engine["precision"], "", "")
        gate: dict[str, Any] = {"precision": key[0], "target": key[1], **verification["gate"]}
        if key[2]:
            gate["variant"] = key[2]
        for old in bundle.manifest.gates:
            if old.key == key:
                gate = to_dict(old)
        writer.add_gate({**gate, "verified": verdict})

    return _rewrite(path, write)


def record_bench(path: Path, label: str, result: BenchResult) -> str | None:
    """Record the bench summary of the rows of ``label`` in the bundle; return why not, or None."""
    text = result.of_bundle(label).to_json(raw=False)

    def write(bundle: Bundle, writer: BundleWriter) -> None:
        writer.add_bytes(text.encode("utf-8"), BENCH_FILE, format="json")

    return _rewrite(path, write)


def _rewrite(path: Path, write: Callable[[Bundle, BundleWriter], None]) -> str | None:
    if is_packaged(path):
        return f"{path} is part of the installed package, which is not written to"
    try:
        # Opened again: measuring took minutes, and another command may have changed the bundle.
        bundle = Bundle.open(path)
        with BundleWriter(path, base=bundle) as writer:
            write(bundle, writer)
    except OSError as error:
        return f"{path} cannot be written: {error.strerror or error}"
    except FerEdgeError as error:
        return str(error)
    return None
