"""Forged files: fields of JSON with a wrong type or value, and damaged parts of an npz.

Each generator is seeded and yields (what was done, the file's content). ``FER_EDGE_FUZZ`` is how
many times as many are drawn as in a run of the tests.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import random
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fer_edge.cli import main
from fer_edge.errors import FerEdgeError

__all__ = [
    "ESCAPE",
    "HOSTILE",
    "MORE",
    "code_of",
    "controls",
    "error_of",
    "forged_json",
    "forged_npz",
    "places",
    "set_at",
    "signed",
]

MORE = int(os.environ.get("FER_EDGE_FUZZ", "1"))

ESCAPE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\u2028\x7f"

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    10**30,
    -(10**30),
    10**4000,
    2**63,
    2**31,
    1e308,
    -1e308,
    1e-320,
    0.5,
    -0.0,
    "",
    "x",
    ESCAPE,
    "a\nerror: b",
    "\0",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "manifest.json",
    "manifest.json/x",
    "n" * 5000,
    "{0} {mean} %s %d",
    "[bold red]x[/]",
    "NaN",
    "0" * 64,
    [],
    [1, "x", None, {}],
    [[]],
    ["a", "b"],
    [0] * 5000,
    {},
    {"": 1},
    {ESCAPE: ESCAPE},
    {"name": "x", "n": 1},
    {"a": {"b": {"c": [{"d": [[[]]]}]}}},
)
"""Values of every JSON type, in forms that are easy to forget."""


def controls(text: str) -> list[str]:
    """Return the characters of ``text`` that can control a terminal."""
    kinds = {"Cc", "Cs", "Zl", "Zp"}
    return [each for each in text if unicodedata.category(each) in kinds and each not in "\n\t"]


def error_of(use: Callable[[], object], what: str) -> FerEdgeError | None:
    """Return the error of ours that ``use`` raises, None for none; any other one is a failure."""
    try:
        use()
    except FerEdgeError as error:
        safe = not controls(str(error)) and "\n" not in str(error)
        if not safe:
            raise AssertionError(f"{what}: {str(error)!r} is not one safe line") from error
        return error
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error
    return None


def code_of(words: Sequence[str], what: str) -> object:
    """Return the exit code of a command; an exception that would be a traceback is a failure."""
    try:
        main(list(words))
    except SystemExit as ended:
        return ended.code
    except Exception as error:
        raise AssertionError(f"{what}: {words}: {error!r}") from error
    return 0


def signed(content: Any) -> bytes:
    """Return a manifest's bytes with the digest of its content, whatever that is."""

    def text(value: Any) -> bytes:
        return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(
            "utf-8", "surrogatepass"
        )

    if not isinstance(content, dict):
        return text(content)
    return text({**content, "manifest_sha256": hashlib.sha256(text(content)).hexdigest()})


def places(content: Any, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value inside ``content``; of a list the first and last item."""
    if isinstance(content, dict):
        inner: Any = content.items()
    elif isinstance(content, list):
        inner = {i: content[i] for i in {0, len(content) - 1} if content}.items()
    else:
        return
    for key, value in inner:
        yield (*above, key)
        yield from places(value, (*above, key))


def set_at(content: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Return a copy of ``content`` with another value at ``path``; ``...`` deletes it."""
    changed = copy.deepcopy(content)
    place = changed
    for part in path[:-1]:
        place = place[part]
    if value is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return changed


def forged_json(content: Any, count: int, seed: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield ``count`` times FER_EDGE_FUZZ copies of ``content``, each changed in one place."""
    draws = [
        (path, value) for path in places(content) for value in (*HOSTILE, ..., ("swap", "swap"))
    ]
    random.Random(seed).shuffle(draws)
    for path, value in draws[: count * MORE]:
        if value == ("swap", "swap"):  # a key that does not exist
            changed = set_at(content, path, ...)
            place = changed
            for part in path[:-1]:
                place = place[part]
            if not isinstance(place, dict):
                continue
            place[f"{path[-1]}_"] = 1
            yield f"{path} renamed", changed
        else:
            shown = (
                "deleted"
                if value is ...
                else json.dumps(value)[:40]
                if value != 10**4000
                else "10^4000"
            )
            yield f"{path} = {shown}", set_at(content, path, value)


def _npz(**arrays: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def _npy(array: np.ndarray, header: str | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    data = buffer.getvalue()
    if header is None:
        return data
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + array.tobytes()


def forged_npz(images: np.ndarray, logits: np.ndarray, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield forged golden files: wrong arrays, headers, bombs, flipped bytes and cuts."""
    good = _npz(images=_npy(images), logits=_npy(logits))
    yield from (("empty", b""), ("no zip", b"PK"), ("text", b"{}"), ("zeros", bytes(1000)))
    wrong = {
        "float64": logits.astype(np.float64),
        "big-endian": logits.astype(">f4"),
        "nan": np.where(logits > 0, np.nan, logits).astype(np.float32),
        "infinite": logits * np.float32(np.inf),
        "one row": logits[:1],
        "no row": logits[:0],
        "six classes": logits[:, :6],
        "flat": logits.reshape(-1),
        "fortran": np.asfortranarray(logits),
        "objects": np.array([{}] * len(logits), dtype=object),
        "text": np.array(["x"] * len(logits)),
        "structured": np.zeros(len(logits), [("a", "f4")]),
        "scalar": np.float32(1),
    }
    for name, array in wrong.items():
        yield f"logits {name}", _npz(images=_npy(images), logits=_npy(np.asarray(array)))
        yield f"images {name}", _npz(images=_npy(np.asarray(array)), logits=_npy(logits))
    yield "no logits", _npz(images=_npy(images))
    yield "another name", _npz(images=_npy(images), logit=_npy(logits))
    for shape in (
        "(10000000000, 1, 48, 48)",
        f"({'9' * 90}, 7)",
        "(-1, 7)",
        "()",
        "(1e3,)",
        "(True, 7)",
    ):
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
        yield f"shape {shape[:20]}", _npz(images=_npy(images, header), logits=_npy(logits))
    for header in ("", "{}", "[" * 100, "__import__('os')", "{'descr': " + "(" * 50):
        yield f"header {header[:20]}", _npz(images=_npy(images, header), logits=_npy(logits))
    bomb = (
        b"\x93NUMPY\1\0v\0"
        + b"{'descr': '|u1', 'fortran_order': False, 'shape': (16, 1, 48, 48), }"
    )
    yield "bomb", _npz(images=bomb.ljust(127) + b"\n" + bytes(300 << 20), logits=_npy(logits))
    draw = random.Random(0)
    ends = [*range(200), *range(len(good) - 300, len(good))]
    for _ in range(count * MORE):
        changed = bytearray(good)
        for place in draw.choices(ends, k=draw.choice([1, 1, 2, 4])):
            changed[place] = draw.randrange(256)
        yield "flipped", bytes(changed)
    for keep in [draw.randrange(len(good)) for _ in range(count * MORE // 4)]:
        yield f"cut at {keep}", good[:keep]
