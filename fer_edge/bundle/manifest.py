"""``manifest.json``: a bundle's files, what each was made from, and its measured results.

Schema history:

1. The first.

The file's bytes are canonical (two-space JSON, fields in this module's order, one newline at the
end). They include the SHA-256 of the file without that digest, so every changed byte is detected,
white space too. A digest detects damage, not an attack: it is not a signature.

Every key that code reads is a field of a record here. Model, gates, data and card are open records:
they keep the keys that another version or a script added, and write them back unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta, field

from fer_edge.bundle.card import Card
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError
from fer_edge.files import parse_json, sha256_bytes
from fer_edge.labels import labels_problem
from fer_edge.preprocessing import SIZE, Preprocessing
from fer_edge.printable import one_line
from fer_edge.provenance import (
    DatasetInfo,
    learnt_target,
)
from fer_edge.records import (
    Count,
    Finite,
    OpenRecord,
    Record,
    Sha256,
    check_schema,
    read_record,
    to_dict,
)

__all__ = [
    "FORMATS",
    "LARGEST_ARTIFACT",
    "LARGEST_MANIFEST",
    "MANIFEST",
    "PRECISIONS",
    "SCHEMA",
    "Artifact",
    "DatasetInfo",
    "Gate",
    "Manifest",
    "Network",
    "Pixels",
    "Tensor",
    "path_problem",
    "plain_json",
]

MANIFEST = "manifest.json"
"""The name of the file in a bundle."""
SCHEMA = 1
"""The schema that this version writes, and the newest one that it reads."""
LARGEST_MANIFEST = 4 << 20
"""Bytes; manifests with many results have about 100 KB."""
LARGEST_ARTIFACT = 2 << 30
"""Bytes; the limit of an ONNX file."""
_MOST_ARTIFACTS = 1024
_LONGEST_NAME, _LONGEST_PATH = 255, 1024
"""Bytes of a file's name and of a path that every file system allows."""
Format = Literal["safetensors", "onnx", "tflite", "plan", "npz", "json"]
Precision = Literal["", "fp32", "fp16", "int8"]
FORMATS: tuple[str, ...] = get_args(Format)
"""Allowed values of an artifact's ``format``."""
Variant = Annotated[str, Meta(pattern=r"\A[a-z0-9-]{0,32}\Z")]
PRECISIONS: tuple[str, ...] = get_args(Precision)
"""Allowed values of an artifact's ``precision``; empty for files without one (golden.npz)."""

_DIGEST = "manifest_sha256"
_REBUILD = "copy the bundle again from where it was made, or build it again with fer-edge build"


class Artifact(Record, frozen=True, omit_defaults=True):
    """One file of a bundle.

    ``path`` is relative to the bundle, with forward slashes. ``target`` is empty for a portable
    file; an INT8 graph has its placement there: ``"onnxruntime"``, ``"openvino"``, ``"tensorrt"``,
    ``"dla"``, ``"litert"``, which a ``.tflite`` of any precision has.
    ``parent_sha256`` is the digest of the file that this one was made from. ``variant``
    distinguishes several graphs of one precision and target; the one with an empty variant is right
    on every machine, and is taken unless a rule prefers another (:mod:`fer_edge.bundle.usable`). A
    plan has the variant of its graph.
    """

    path: str
    format: Format
    precision: Precision
    target: str
    sha256: Sha256
    size: Annotated[int, Meta(ge=0, le=LARGEST_ARTIFACT)]
    parent_sha256: Sha256 | None
    meta: dict[str, Any]
    variant: Variant = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Precision, target and variant: that of the gate which judges this file."""
        return self.precision, self.target, self.variant

    @property
    def weights(self) -> str:
        """The kind of weights of an INT8 graph for CPUs: ``saturation-safe``, ``full``, or ``""``.

        Empty for all other files, and for graphs that do not say it.
        """
        said = str(self.meta.get("weights", "")) if self.precision == "int8" else ""
        return next((kind for kind in ("saturation-safe", "full") if said.endswith(kind)), "")

    def __post_init__(self) -> None:
        problem = path_problem(self.path)
        if problem:
            raise ValueError(f"has the path {self.path!r}, which {problem}")


class Pixels(OpenRecord, frozen=True, kw_only=True, eq=False):
    """How pixels become the input: what :class:`~fer_edge.preprocessing.Preprocessing` writes."""

    size: int
    color: str
    mean: Annotated[float, Meta(ge=-1e6, le=1e6)]
    std: Annotated[float, Meta(ge=1e-6, le=1e6)]

    def __post_init__(self) -> None:
        if (self.size, self.color) != (SIZE, "gray"):
            raise ValueError(
                f"is {self.size}x{self.size} {self.color}: networks take {SIZE}x{SIZE} gray"
            )


class Tensor(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The input of the graphs, u8 or f32 [N,1,48,48], or their output, f32 [N,C]."""

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int | str, ...]


class _Spec(OpenRecord, frozen=True, kw_only=True, eq=False):
    """What :class:`fer_edge.models.spec.ModelSpec` reads."""

    name: str = "unknown"
    options: dict[str, Any] = field(default_factory=dict)
    size: Annotated[int, Meta(ge=1, le=1 << 20)] = SIZE
    channels: Annotated[int, Meta(ge=1, le=1 << 20)] = 1
    classes: Annotated[int, Meta(ge=1, le=1 << 20)] = len(EMOTIONS)
    package: str = ""


class Network(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The network: its ``ModelSpec`` as JSON, and its size; all None for an ONNX source."""

    spec: dict[str, Any] | None = None
    parameters: int | None = None
    macs: int | None = None
    """Multiply-accumulates of one image."""

    def __post_init__(self) -> None:
        if self.spec is not None:
            try:
                msgspec.convert(self.spec, _Spec)
            except (msgspec.ValidationError, ValueError, OverflowError) as error:
                raise ValueError(f"has a spec that is none: {error}") from None

    @property
    def name(self) -> str:
        """The spec's name, or ``unknown``."""
        return str((self.spec or {}).get("name", "unknown"))


class TrialScores(OpenRecord, frozen=True, kw_only=True, eq=False):
    """How far a graph is from FP32 on ``n`` images of TRAIN that it was not calibrated on.

    ``kl`` is in nats, ``kl_error`` its standard error, ``flips`` a fraction of the labels.
    """

    kl: Finite | None = None
    kl_error: Finite = 0.0
    flips: Finite | None = None
    n: int = 0


class GateChoice(OpenRecord, frozen=True, kw_only=True, eq=False):
    """How the graph that a gate judges was chosen; ``trial`` is its own."""

    trial: TrialScores | None = None


class Gate(OpenRecord, frozen=True, kw_only=True, eq=False):
    """The gate's decision on one engine; ``passed`` None means that there is no decision.

    ``timed`` names the file and the machine that ``speedup`` and ``p50_ms`` were measured with.
    """

    precision: str = ""
    target: str = ""
    variant: str = ""
    passed: bool | None = None
    status: str | None = None
    reason: str | None = None
    backend: str | None = None
    split: str | None = None
    n: int | None = None
    top1: float | None = None
    reference_top1: float | None = None
    flips: int | None = None
    speedup: float | None = None
    speedup_over: str | None = None
    """The precision that ``speedup`` compares with."""
    timed: dict[str, Any] | None = None
    created: str | None = None
    choice: GateChoice | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Precision, target and variant: a bundle has at most one gate of each."""
        return self.precision, self.target, self.variant


class Manifest(Record, frozen=True):
    """The manifest of a bundle.

    ``calibration`` and ``environment`` are only shown; no code reads their keys. ``synthetic``
    marks a network that was trained or calibrated on synthetic faces.
    """

    name: str
    created: str
    fer_edge: str
    synthetic: bool = False
    labels: tuple[str, ...] = EMOTIONS
    preprocessing: Pixels = field(
        default_factory=lambda: read_record(Pixels, Preprocessing().to_dict(), MANIFEST)
    )
    input: Tensor = Tensor(name="images", dtype="uint8", shape=("N", 1, SIZE, SIZE))
    output: Tensor = Tensor(name="logits", dtype="float32", shape=("N", len(EMOTIONS)))
    model: Network = Network()
    artifacts: Annotated[tuple[Artifact, ...], Meta(max_length=_MOST_ARTIFACTS)] = ()
    calibration: dict[str, Any] | None = None
    gates: Annotated[tuple[Gate, ...], Meta(max_length=_MOST_ARTIFACTS)] = ()
    dataset: DatasetInfo = DatasetInfo()
    environment: dict[str, Any] = field(default_factory=dict)
    card: Card = Card()
    schema: Count = SCHEMA

    def __post_init__(self) -> None:
        problem = labels_problem(self.labels)
        if problem:
            raise ValueError(f"has the labels {list(self.labels)}: {problem}")
        if self.labels != self.dataset.labels:
            raise ValueError(
                f"has the labels {list(self.labels)}, not those of its dataset, "
                f"{list(self.dataset.labels)}"
            )
        if self.output.shape[-1:] != (len(self.labels),):
            raise ValueError(
                f"has {len(self.labels)} labels, but an output of {list(self.output.shape)}"
            )
        logits = (self.model.spec or {}).get("classes", len(self.labels))
        if logits != len(self.labels):
            raise ValueError(f"has {len(self.labels)} labels, but a network of {logits} classes")
        if self.output.dtype != "float32":
            raise ValueError(f"has an output of {self.output.dtype}, not float32")
        _check_places([artifact.path for artifact in self.artifacts])

    @property
    def by_votes(self) -> bool:
        """Whether the network learnt the votes of FER+, not FER2013's labels."""
        return learnt_target(self.card.training.recipe) != "label"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without the digest."""
        return {"schema": self.schema, **to_dict(self)}

    def to_bytes(self) -> bytes:
        """Return the bytes of ``manifest.json``, digest included."""
        content = self.to_dict()
        return _canonical({**content, _DIGEST: sha256_bytes(_canonical(content))})

    @property
    def sha256(self) -> str:
        """The digest of the manifest, which the file includes: the bundle's identity."""
        return sha256_bytes(_canonical(self.to_dict()))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = MANIFEST) -> Manifest:
        """Read what :meth:`to_dict` returned; :class:`IntegrityError` names a wrong field."""
        return read_record(cls, dict(content), where)

    @classmethod
    def from_bytes(cls, content: bytes, where: str = MANIFEST) -> Manifest:
        """Read and check the bytes of a ``manifest.json``; ``where`` names it in errors.

        :class:`IntegrityError` if any byte changed; :class:`UsageError` for a manifest that a newer
        fer-edge wrote.
        """
        fields = _checked(content, where)
        check_schema(fields, SCHEMA, where)
        manifest = cls.from_dict(fields, where)
        missing = sorted(set(cls.__struct_fields__) - set(fields))
        if missing:
            raise IntegrityError(f"{where}: {missing[0]} is missing")
        return manifest


def _check_places(paths: Sequence[str]) -> None:
    """Raise ValueError if two files would have one place, or one is in another as in a folder."""
    files: set[str] = {MANIFEST}
    for path in paths:
        if path in files:
            raise ValueError(f"lists {path} twice")
        files.add(path)
    for path in paths:
        for folder in PurePosixPath(path).parents:
            if str(folder) in files:
                raise ValueError(f"lists {path}, which is below the file {folder}")


def path_problem(path: str) -> str | None:
    """Return why ``path`` is not allowed in a manifest, or None: it must be inside the bundle."""
    parts = path.split("/")
    if one_line(path) != path:
        return "has characters that control a terminal"
    if len(path.encode()) > _LONGEST_PATH or max(map(len, map(str.encode, parts))) > _LONGEST_NAME:
        return "is too long"
    if not path or "\\" in path or "\0" in path or path != str(PurePosixPath(path)):
        return "is not a plain relative path"
    if path.startswith("/") or ":" in parts[0]:
        return "is absolute"
    if ".." in parts or path == ".":
        return "leaves the bundle"
    if path == MANIFEST:
        return "is the manifest itself"
    return None


def plain_json(value: Any) -> Any:
    """Return ``value`` as JSON gives it back: lists for tuples, str keys; ValueError for NaN.

    A record becomes its JSON form.
    """
    value = to_dict(value) if isinstance(value, Record | OpenRecord) else value
    return json.loads(json.dumps(value, allow_nan=False))


def _canonical(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def _checked(content: bytes, where: str) -> dict[str, Any]:
    try:
        fields = parse_json(content, where)
        if not isinstance(fields, dict) or not isinstance(fields.get(_DIGEST), str):
            raise ValueError(f"it has no {_DIGEST}")
        rewritten = _canonical(fields)
    except (ValueError, IntegrityError) as error:
        raise IntegrityError(f"{where} is damaged or incomplete: {error}", fix=_REBUILD) from None
    claimed = fields.pop(_DIGEST)
    if rewritten != content or sha256_bytes(_canonical(fields)) != claimed:
        raise IntegrityError(f"{where} does not match its own digest", fix=_REBUILD)
    return fields
