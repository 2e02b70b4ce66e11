"""What was measured of a bundle, kept in the bundle: ``verify.json`` and ``bench.json``.

``verify.json`` holds ``{schema, verifications: [...]}``, the newest of each backend, precision and
split. ``bench.json`` is the summary of the last bench, without its raw nanoseconds: a bundle
travels to devices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fer_edge.bundle import BundleWriter
from fer_edge.errors import UsageError

if TYPE_CHECKING:
    from fer_edge.bundle import Bundle
    from fer_edge.measure.result import BenchResult

__all__ = [
    "BENCH_FILE",
    "VERIFY_FILE",
    "record_bench",
    "record_verification",
    "with_verification",
]

BENCH_FILE = "bench.json"
VERIFY_FILE = "verify.json"
VERIFY_SCHEMA = 1


def with_verification(before: str | None, verification: Mapping[str, Any]) -> str:
    """Return the text of ``verify.json`` with a verification in the place of an older one of it.

    ``before`` is the file's text so far (None: there is none). Its entries are kept as they are.
    """

    def key(one: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        return one["engine"]["backend"], one["engine"]["precision"], one["split"]

    old = json.loads(before)["verifications"] if before else []
    kept = [one for one in old if key(one) != key(verification)]
    content = {"schema": VERIFY_SCHEMA, "verifications": [*kept, verification]}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def record_verification(bundle: Bundle, verification: Mapping[str, Any]) -> str | None:
    """Keep a ``Verification.to_dict()`` in the bundle; return why not where it cannot be written.

    The gate that the build recorded keeps its verdict and gains ``verified``; an engine without
    one gets this one's.
    """
    engine = verification["engine"]
    artifact = bundle.find(path=engine["artifact"])
    key = (engine["precision"], artifact.target if artifact else "")
    listed = bundle.find(path=VERIFY_FILE)
    before = bundle.file(listed).read_text(encoding="utf-8") if listed else None
    verdict = {
        name: verification[name] for name in ("created", "split", "n", "passed", "status", "flips")
    }
    verdict["dataset_sha256"] = verification["dataset"]["sha256"]
    gate: dict[str, Any] = {"precision": key[0], "target": key[1], **verification["gate"]}
    for old in bundle.manifest.gates:
        if (old.get("precision", ""), old.get("target", "")) == key:
            gate = dict(old)
    gate["verified"] = verdict
    return _write(bundle, VERIFY_FILE, with_verification(before, verification), gate)


def record_bench(bundle: Bundle, label: str, result: BenchResult) -> str | None:
    """Keep the summary of a bench's rows of ``label`` in the bundle; return why not, or None."""
    return _write(bundle, BENCH_FILE, result.of_bundle(label).to_json(raw=False), None)


def _write(bundle: Bundle, name: str, text: str, gate: dict[str, Any] | None) -> str | None:
    try:
        with BundleWriter(bundle.path, base=bundle) as writer:
            writer.add_bytes(text.encode("utf-8"), name, format="json")
            if gate is not None:
                writer.add_gate(gate)
    except OSError as error:
        return f"{bundle.path} cannot be written: {error.strerror or error}"
    except UsageError as error:
        # Another process changed the bundle meanwhile: its change stands, ours is printed.
        return str(error)
    return None
