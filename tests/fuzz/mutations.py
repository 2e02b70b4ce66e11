"""Mutations of bytes, JSON, text and archives: what a damaged or hostile file may hold.

Each takes a ``random.Random``, so an input is made again from its seed. No corpus is stored.
"""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Iterator
from typing import Any

__all__ = ["bytes_of", "dumped", "json_of", "text_of", "value", "zip_of"]

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF)
_WORDS = (
    *("", " ", "\0", "\n", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "\u202eabc", "\ud800", "💥"),
    *("../../etc/passwd", "/dev/zero", "..\\..\\x", "C:\\x", "a" * 5000, "nan", "null", "%s%n"),
    *("__import__('os')", "$(reboot)", "angry", "happiness", "true", "-1", "1e999", "[" * 400),
)


def bytes_of(content: bytes, rng: random.Random) -> bytes:
    """Return ``content`` with one to eight changes: bits, runs, sizes, order, length."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0 if data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[place % len(data)] = rng.randrange(256)
            case 2:
                del data[place : place + rng.choice((1, 2, 7, 64, 4096))]
            case 3:
                data[place:place] = rng.randbytes(rng.choice((1, 3, 16, 300)))
            case 4:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(_NUMBERS) & (2 ** (8 * size) - 1)
                data[place : place + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 5:
                data[place : place + 64] = bytes(64)
            case 6:
                data[place:place] = data[place : place + rng.choice((8, 100, 2000))]
            case _ if rng.randrange(3) == 0:
                del data[place:]
    return bytes(data)


def value(rng: random.Random) -> Any:
    """Return a value that a field rarely expects."""
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    return rng.choice(
        (
            *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**70), 10**30, 0.5, -0.0, 1e308),
            *(float("nan"), float("inf"), [], {}, [None], {"": {}}, [[]] * 50, deep),
            *(["a"] * 10_000, {str(i): i for i in range(2000)}, int("9" * 4000)),
            rng.choice(_WORDS),
            rng.choice(_WORDS),
            "x" * rng.choice((1, 255, 100_000)),
        )
    )


def json_of(content: Any, rng: random.Random) -> Any:
    """Return a copy of JSON ``content`` with one or two places changed, dropped, added or moved."""
    changed = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2))):
        places = list(_places(changed))
        if not places:
            return value(rng)
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(_WORDS) or "x"] = value(rng)
            case 1:
                holder.insert(key, value(rng))
            case 2:
                other, there = rng.choice(places)
                holder[key] = copy.deepcopy(other[there])
            case _:
                holder[key] = value(rng)
    return changed


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(content, dict):
        for key, item in content.items():
            yield content, key
            yield from _places(item)
    elif isinstance(content, list):
        for index, item in enumerate(content[:20]):
            yield content, index
            yield from _places(item)


def dumped(content: Any) -> bytes:
    """Return JSON of ``content``, with NaN and lone surrogates as Python writes them."""
    return json.dumps(content, ensure_ascii=True).encode()


def text_of(text: str, rng: random.Random) -> bytes:
    """Return a table with other cells, separators, line ends, encodings, or damage."""
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        row = rng.randrange(len(lines))
        cells = lines[row].split(",")
        cell = rng.randrange(len(cells))
        match rng.randrange(8):
            case 0:
                cells[cell] = str(rng.choice(_WORDS))
            case 1:
                cells[cell] = str(value(rng))[:3000]
            case 2:
                del cells[cell]
            case 3:
                cells.insert(cell, str(rng.choice(_WORDS)))
            case 4:
                cells[cell] = f'"{cells[cell]}' + ('"' if rng.randrange(2) else "")
            case 5:
                lines.insert(row, rng.choice(lines))
            case 6:
                rng.shuffle(cells)
            case _:
                cells[cell] = cells[cell].replace(" ", rng.choice(("  ", "\t", " -", " 1e2 ", ";")))
        lines[row] = ",".join(cells)
    whole = rng.choice(("\n", "\n", "\r\n", "\r")).join(lines)
    if rng.randrange(6) == 0:
        whole = whole.replace(",", rng.choice((";", "\t", "|")))
    encoding = rng.choice(("utf-8",) * 5 + ("utf-8-sig", "utf-16", "latin-1"))
    content = whole.encode(encoding, "replace")
    return bytes_of(content, rng) if rng.randrange(4) == 0 else content


def zip_of(files: dict[str, bytes], rng: random.Random) -> bytes:
    """Return a zip of ``files`` with odd names, methods, members or damage."""
    files = dict(files)
    names = list(files)
    for _ in range(rng.choice((1, 1, 2, 4))):
        name = rng.choice(names)
        content = files.pop(name, b"")
        files[_member(name, rng)] = _content(content, rng)
        if rng.randrange(4) == 0:
            files[f"__MACOSX/._{name}"] = files["Thumbs.db"] = b"junk"
    buffer = io.BytesIO()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(buffer, "w", rng.choice(methods)) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name[:60_000]), content)
    packed = buffer.getvalue()
    return bytes_of(packed, rng) if rng.randrange(2) else packed


def _member(name: str, rng: random.Random) -> str:
    split = rng.choice(("Training", "train_set", "x", ""))
    word = str(rng.choice(_WORDS)).encode("utf-8", "replace").decode() or "x"
    return rng.choice(
        (
            *(name, name, name, name.replace("/", "\\"), name.upper(), word),
            *("../" + name, "/" + name, "a/../" + name, name + "/", name.replace("train", split)),
        )
    )


def _content(content: bytes, rng: random.Random) -> bytes:
    if rng.randrange(2):
        return content
    bomb, large = bytes(3_000_000), b"P5\n60000 60000\n255\n"
    return rng.choice((bytes_of(content, rng), b"", bomb, large))
