"""``manifest.json``: what a bundle's files are, what each was made from, and what was proved of it.

Schema history:

1. The first.

The file's bytes are canonical (two-space JSON, fields in this module's order, one newline at the
end) and carry the SHA-256 of themselves without that digest, so that no byte of it, white space
included, can change unnoticed. A digest tells damage, not malice: it is no signature.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NoReturn

from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import sha256_bytes
from fer_edge.preprocessing import SIZE, Preprocessing

__all__ = ["FORMATS", "MANIFEST", "PRECISIONS", "SCHEMA", "Artifact", "Manifest", "plain_json"]

MANIFEST = "manifest.json"
SCHEMA = 1
FORMATS: tuple[str, ...] = ("safetensors", "onnx", "plan", "npz", "json")
PRECISIONS: tuple[str, ...] = ("", "fp32", "fp16", "int8")
"""What an artifact's ``precision`` may be; empty where the word has no meaning (golden.npz)."""

_DIGEST = "manifest_sha256"


@dataclass(frozen=True)
class Artifact:
    """One file of a bundle.

    ``path`` is relative to the bundle, with forward slashes. ``target`` is empty for a portable
    file; an INT8 graph is shaped for ``"onnxruntime"``, ``"openvino"`` or ``"tensorrt"``.
    ``parent_sha256`` is the digest of the file that this one was made from.
    """

    path: str
    format: str
    precision: str
    target: str
    sha256: str
    size: int
    parent_sha256: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "path": self.path,
            "format": self.format,
            "precision": self.precision,
            "target": self.target,
            "sha256": self.sha256,
            "size": self.size,
            "parent_sha256": self.parent_sha256,
            "meta": self.meta,
        }

    @classmethod
    def from_dict(cls, content: Any, where: str) -> Artifact:
        """Read what :meth:`to_dict` wrote; :class:`IntegrityError` names a field that is not so."""
        read = _Fields(content, where)
        artifact = cls(
            path=read.text("path"),
            format=read.one_of("format", FORMATS),
            precision=read.one_of("precision", PRECISIONS),
            target=read.text("target"),
            sha256=read.sha256("sha256"),
            size=read.whole("size"),
            parent_sha256=read.sha256("parent_sha256", optional=True),
            meta=read.mapping("meta"),
        )
        read.done()
        problem = path_problem(artifact.path)
        if problem:
            raise IntegrityError(f"{where}: the path {artifact.path!r} {problem}")
        return artifact


@dataclass(frozen=True)
class Manifest:
    """What is known of a bundle. ``card``: licence, intended use, limits, known biases.

    ``model`` holds spec, parameters and macs; ``input`` and ``output`` name, dtype and shape of the
    graphs' one input (``uint8`` or ``float32`` [N,1,48,48]) and output (``float32`` [N,7]).
    ``synthetic`` marks a network trained or calibrated on procedural faces.
    """

    name: str
    created: str
    fer_edge: str
    synthetic: bool = False
    labels: tuple[str, ...] = EMOTIONS
    preprocessing: dict[str, Any] = field(default_factory=lambda: Preprocessing().to_dict())
    input: dict[str, Any] = field(
        default_factory=lambda: {"name": "images", "dtype": "uint8", "shape": ["N", 1, SIZE, SIZE]}
    )
    output: dict[str, Any] = field(
        default_factory=lambda: {
            "name": "logits",
            "dtype": "float32",
            "shape": ["N", len(EMOTIONS)],
        }
    )
    model: dict[str, Any] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    calibration: dict[str, Any] | None = None
    gates: list[dict[str, Any]] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form, without the digest."""
        return {
            "schema": self.schema,
            "name": self.name,
            "created": self.created,
            "fer_edge": self.fer_edge,
            "synthetic": self.synthetic,
            "labels": list(self.labels),
            "preprocessing": self.preprocessing,
            "input": self.input,
            "output": self.output,
            "model": self.model,
            "artifacts": [artifact.to_dict() for artifact in self.artifacts],
            "calibration": self.calibration,
            "gates": self.gates,
            "dataset": self.dataset,
            "environment": self.environment,
            "card": self.card,
        }

    def to_bytes(self) -> bytes:
        """Return the bytes of ``manifest.json``, digest included."""
        content = self.to_dict()
        return _canonical({**content, _DIGEST: sha256_bytes(_canonical(content))})

    @property
    def sha256(self) -> str:
        """The digest that the file carries of itself: the bundle's identity."""
        return sha256_bytes(_canonical(self.to_dict()))

    @classmethod
    def from_bytes(cls, content: bytes, where: str = MANIFEST) -> Manifest:
        """Read and check the bytes of a ``manifest.json``; ``where`` names it in errors.

        :class:`IntegrityError` for any byte that differs from what was written;
        :class:`UsageError` for a manifest that a newer fer-edge wrote.
        """
        fields = _checked(content, where)
        schema = fields.get("schema")
        if type(schema) is not int or schema < 1:
            raise IntegrityError(f"{where}: schema is {schema!r}, not a version number")
        if schema > SCHEMA:
            raise UsageError(
                f"{where} has schema {schema}; this fer-edge reads up to {SCHEMA}",
                fix="pip install -U fer-edge",
            )
        return cls._from_dict(fields, where)

    @classmethod
    def _from_dict(cls, content: dict[str, Any], where: str) -> Manifest:
        read = _Fields(content, where)
        manifest = cls(
            schema=read.whole("schema"),
            name=read.text("name"),
            created=read.text("created"),
            fer_edge=read.text("fer_edge"),
            synthetic=read.flag("synthetic"),
            labels=tuple(read.items("labels")),
            preprocessing=read.mapping("preprocessing"),
            input=read.mapping("input"),
            output=read.mapping("output"),
            model=read.mapping("model"),
            artifacts=tuple(
                Artifact.from_dict(item, f"{where}: artifacts[{i}]")
                for i, item in enumerate(read.items("artifacts"))
            ),
            calibration=read.mapping("calibration", optional=True),
            gates=read.items("gates", of=dict),
            dataset=read.mapping("dataset"),
            environment=read.mapping("environment"),
            card=read.mapping("card"),
        )
        read.done()
        if manifest.labels != EMOTIONS:
            raise IntegrityError(
                f"{where}: labels are {list(manifest.labels)}, not FER2013's {list(EMOTIONS)}"
            )
        paths = [artifact.path for artifact in manifest.artifacts]
        for path in paths:
            if paths.count(path) > 1:
                raise IntegrityError(f"{where}: {path} is listed twice")
        _check_preprocessing(manifest.preprocessing, where)
        for name, dtypes in (("input", ("uint8", "float32")), ("output", ("float32",))):
            _check_tensor(_Fields(getattr(manifest, name), f"{where}: {name}"), dtypes)
        return manifest


def path_problem(path: str) -> str | None:
    """Say why ``path`` may not stand in a manifest, or None: it must stay inside the bundle."""
    parts = path.split("/")
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
    """Return ``value`` as its JSON would be read: lists for tuples, str keys; NaN is refused."""
    return json.loads(json.dumps(value, allow_nan=False))


def _canonical(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8")


def _checked(content: bytes, where: str) -> dict[str, Any]:
    try:
        # RecursionError: a damaged file of a million brackets is damage, not a crash.
        fields = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
        if not isinstance(fields, dict) or not isinstance(fields.get(_DIGEST), str):
            raise ValueError(f"it carries no {_DIGEST}")
        rewritten = _canonical(fields)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where} is damaged or cut short: {error}", fix=_REBUILD) from None
    claimed = fields.pop(_DIGEST)
    if rewritten != content or sha256_bytes(_canonical(fields)) != claimed:
        raise IntegrityError(f"{where} is not what its own digest says", fix=_REBUILD)
    return fields


_REBUILD = "copy the bundle again from where it was made, or build it again with fer-edge build"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _check_preprocessing(content: dict[str, Any], where: str) -> None:
    where = f"{where}: preprocessing"
    read = _Fields(content, where)
    if read.whole("size") != SIZE or read.text("color") != "gray":
        raise IntegrityError(f"{where}: networks take {SIZE}x{SIZE} gray, not {content}")
    read.number("mean")
    if read.number("std") <= 0:
        raise IntegrityError(f"{where}: std must be positive")


def _check_tensor(read: _Fields, dtypes: tuple[str, ...]) -> None:
    read.text("name")
    read.one_of("dtype", dtypes)
    read.items("shape", of=(int, str))


class _Fields:
    """Reads fields of a JSON object, each of exactly the type it must have."""

    def __init__(self, content: Any, where: str) -> None:
        self._where = where
        if type(content) is not dict:
            raise IntegrityError(f"{where} must be an object, not {type(content).__name__}")
        self._content: dict[str, Any] = content
        self._seen: set[str] = set()

    def _get(self, key: str, *kinds: type) -> Any:
        self._seen.add(key)
        if key not in self._content:
            raise IntegrityError(f"{self._where}: the field {key!r} is missing")
        value = self._content[key]
        # Exact types: JSON true must not pass for the number 1.
        if type(value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise IntegrityError(
                f"{self._where}: {key} must be {names}, not {type(value).__name__}"
            )
        return value

    def text(self, key: str) -> str:
        value: str = self._get(key, str)
        return value

    def flag(self, key: str) -> bool:
        value: bool = self._get(key, bool)
        return value

    def whole(self, key: str) -> int:
        value: int = self._get(key, int)
        if value < 0:
            raise IntegrityError(f"{self._where}: {key} is negative")
        return value

    def number(self, key: str) -> float:
        return float(self._get(key, int, float))

    def one_of(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in allowed:
            raise IntegrityError(f"{self._where}: {key} is {value!r}, not one of {list(allowed)}")
        return value

    def sha256(self, key: str, *, optional: bool = False) -> Any:
        value = self._get(key, str, *([type(None)] if optional else []))
        if value is not None and (len(value) != 64 or set(value) - set("0123456789abcdef")):
            raise IntegrityError(f"{self._where}: {key} is not a SHA-256 in hex")
        return value

    def mapping(self, key: str, *, optional: bool = False) -> Any:
        return self._get(key, dict, *([type(None)] if optional else []))

    def items(self, key: str, of: type | tuple[type, ...] | None = None) -> list[Any]:
        values: list[Any] = self._get(key, list)
        if of is not None and not all(
            isinstance(value, of) and type(value) is not bool for value in values
        ):
            raise IntegrityError(f"{self._where}: {key} holds something of the wrong type")
        return values

    def done(self) -> None:
        unknown = sorted(set(self._content) - self._seen)
        if unknown:
            raise IntegrityError(f"{self._where}: unknown field {unknown[0]!r}")
