"""What the API's description says: schemas of bodies and answers, as OpenAPI."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fer_edge.analyzer.rows import COLUMNS, NO_FACE, UNCERTAIN, UNCLEAR
from fer_edge.labels import column
from fer_edge.serve.settings import MOST_PICTURES
from fer_edge.version import __version__

if TYPE_CHECKING:
    from fer_edge.serve.engine import Engine

__all__ = [
    "API",
    "BODY",
    "HEALTH",
    "METRICS",
    "MODEL",
    "PROBLEM",
    "model_facts",
    "predict_responses",
]

API = (
    "Finds the faces of photographs and classifies their expression. There is no authentication. "
    "Requests of other sites and under other names are refused (403). Pictures are kept in memory "
    "until they are answered; nothing is stored."
)
"""The text at the top of the API's description."""

_BINARY = {"type": "string", "format": "binary"}

BODY: dict[str, Any] = {
    "required": True,
    "description": "One picture (JPEG, PNG, WebP, BMP, GIF, TIFF, PNM, JPEG 2000; AVIF where "
    f"Pillow has it), or a form with up to {MOST_PICTURES} files.",
    "content": {
        "image/*": {"schema": _BINARY},
        "application/octet-stream": {"schema": _BINARY},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {"file": {"type": "array", "items": _BINARY, "minItems": 1}},
                "required": ["file"],
                "additionalProperties": False,
            }
        },
    },
}
"""The body of ``POST /v1/predict``."""

_TEXT = {"type": "string"}
_NULL = {"type": "null"}
_NUMBER_OR_NULL = {"anyOf": [{"type": "number"}, _NULL]}
_FRACTION = {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, _NULL]}


def _object(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties], **more}


PROBLEM = _object({"error": _TEXT, "fix": {"anyOf": [_TEXT, _NULL]}})
"""The schema of every error."""


def _problem(description: str, *, retry: bool = False) -> dict[str, Any]:
    said: dict[str, Any] = {
        "description": description,
        "content": {"application/json": {"schema": PROBLEM}},
    }
    if retry:
        said["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
        }
    return said


_FORBIDDEN: dict[int | str, dict[str, Any]] = {
    403: _problem("Another site, or a name that is not this server's.")
}
_OK = {"application/json": {"schema": _object({"status": {"const": "ok"}})}}

HEALTH: dict[int | str, dict[str, Any]] = {
    200: {"description": "Yes.", "content": _OK},
    **_FORBIDDEN,
    503: _problem("No.", retry=True),
}
"""The answers of ``/healthz`` and ``/readyz``."""

MODEL: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The bundle, its engine, and the limits of the server.",
        "content": {
            "application/json": {
                "schema": _object(
                    {
                        "name": _TEXT,
                        "digest": _TEXT,
                        "classes": {"type": "array", "items": _TEXT, "minItems": 2},
                        **dict.fromkeys(("backend", "precision", "provider", "version"), _TEXT),
                        "threshold": _NUMBER_OR_NULL,
                        "synthetic": {"type": "boolean"},
                        "detector": {"anyOf": [_TEXT, _NULL]},
                        "limits": _object(
                            {
                                "bytes": {"type": "integer"},
                                "pixels": {"type": "integer"},
                                "pictures": {"type": "integer"},
                                "queue": {"type": "integer"},
                                "seconds": {"type": "number"},
                            }
                        ),
                    }
                )
            }
        },
    },
    **_FORBIDDEN,
    503: _problem("The network is not loaded yet.", retry=True),
}
"""The answers of ``/v1/model``."""

METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Counters, histograms and gauges of all processes of this server.",
        "content": {"text/plain": {"schema": _TEXT}},
    },
    **_FORBIDDEN,
}
"""The answers of ``/metrics``."""


def model_facts(engine: Engine) -> dict[str, Any]:
    """Return what ``/v1/model`` answers."""
    classifier, settings = engine.classifier, engine.settings
    manifest = classifier.bundle.manifest
    return {
        "name": manifest.name,
        "digest": manifest.sha256,
        "classes": [*classifier.labels],
        "backend": classifier.backend,
        "precision": classifier.precision,
        "provider": classifier.provider,
        "version": __version__,
        "threshold": classifier.threshold,
        "synthetic": manifest.synthetic,
        "detector": settings.detector,
        "limits": {
            "bytes": settings.max_bytes,
            "pixels": settings.max_pixels,
            "pictures": MOST_PICTURES,
            "queue": settings.queue,
            "seconds": settings.timeout_s,
        },
    }


def predict_responses(engine: Engine) -> dict[int | str, dict[str, Any]]:
    """Return the answers of ``/v1/predict``; the classes are those of the bundle, once loaded."""
    labels = engine.classifier.labels if engine.ready else ()
    row = _object(
        {
            "image": {**_TEXT, "description": "The file's name; - where there is none."},
            "face": {"type": "integer", "minimum": 0, "description": "0: no face was found."},
            "label": {
                **_TEXT,
                "description": f"A class, or '{NO_FACE}', '{UNCLEAR}' (a face that is not judged), "
                f"'{UNCERTAIN}' (abstain).",
            },
            "confidence": _FRACTION,
            "confident": {"anyOf": [{"type": "boolean"}, _NULL]},
            **{column(label, COLUMNS): _FRACTION for label in labels},
            "latency_ms": _NUMBER_OR_NULL,
            "box": {
                "anyOf": [
                    {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
                    _NULL,
                ],
                "description": "Left, top, right, bottom in pixels of the upright picture; null: "
                "the whole picture is the face.",
            },
            "problem": {
                "anyOf": [_TEXT, _NULL],
                "description": "Why a face is not judged.",
            },
        },
        additionalProperties=not labels,
    )
    stages = ("wait", "read", "detect", "classify")
    refused = _object({"image": _TEXT, **PROBLEM["properties"]})
    answer = _object(
        {
            "answers": {"type": "array", "items": row},
            "errors": {"type": "array", "items": refused},
            "milliseconds": _object({stage: {"type": "number"} for stage in stages}),
        }
    )
    return {
        200: {
            "description": "One object per face, as `fer-edge predict --format json` prints it; "
            "the pictures of a form that could not be used; the time of each stage.",
            "content": {"application/json": {"schema": answer}},
        },
        400: _problem("No picture could be read."),
        **_FORBIDDEN,
        408: _problem("The body came too slowly."),
        413: _problem("Too many bytes, pixels or files."),
        415: _problem("The body is neither a picture nor a form."),
        422: _problem("A wrong parameter, or a form's field that is not a file."),
        500: _problem("A fault of the server."),
        503: _problem("The queue is full.", retry=True),
        504: _problem("The answer took too long."),
    }
