"""Records: what a JSON or TOML file holds, declared once with its bounds, checked in one place.

::

    class Side(Record, frozen=True):
        size: Annotated[int, Meta(ge=1)]
        mean: Finite = 0.5

    side = read_record(Side, read_json(path), where=str(path))
    write_json(path, to_dict(side))

A :class:`Record` refuses an unknown field. An :class:`OpenRecord` is for a part of a file that may
hold more than this version reads: what it does not know is kept, and written again as it was.
Types are exact (JSON ``true`` is not the number 1); a whole number is accepted for a float.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from fer_edge.errors import FerEdgeError, IntegrityError, UsageError

__all__ = ["Finite", "OpenRecord", "Positive", "Record", "Sha256", "read_record", "to_dict"]

_LARGEST = sys.float_info.max

Finite = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
"""Any number but NaN and the infinities."""
Positive = Annotated[float, Meta(ge=0, le=_LARGEST)]
"""0 or more, finite."""
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""A SHA-256 as 64 hex digits."""

T = TypeVar("T", bound=msgspec.Struct)


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the records whose fields are all known. Give ``frozen=True`` to each subclass."""


class OpenRecord(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Base of the records that keep what they do not know.

    ``as_read`` is the object that the record was read from, empty for one made here. A field that
    has its default is written only if it was read. A record inside it is open too. Give
    ``frozen=True, kw_only=True, eq=False`` to each subclass.
    """

    # The JSON name is one that no file uses: this field is never read by name.
    as_read: dict[str, Any] = msgspec.field(default_factory=dict, name="(as read)")

    def __eq__(self, other: object) -> bool:
        """Whether both are written alike."""
        return type(self) is type(other) and to_dict(self) == to_dict(other)

    __hash__ = None  # type: ignore[assignment]


def read_record(
    kind: type[T], content: Any, where: str, error: type[FerEdgeError] = IntegrityError
) -> T:
    """Return ``content``, as a JSON or TOML reader gave it, as a record of type ``kind``.

    Raises ``error``: one line that starts with ``where`` and names the field by its path, such as
    ``artifacts[0].size``. Its ``fix`` suggests the nearest key for an unknown one.
    """
    try:
        record = msgspec.convert(content, kind)
    # ValueError: a number of thousands of digits, which Python does not print.
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as problem:
        raise _explained(kind, content, str(problem), where, error) from None
    _keep(record, content)
    return record


def to_dict(record: msgspec.Struct) -> dict[str, Any]:
    """Return the JSON form of a record: :func:`read_record` reads it back to an equal one."""
    values = {
        field.encode_name: (getattr(record, field.name), field)
        for field in msgspec.structs.fields(record)
    }
    if not isinstance(record, OpenRecord):
        return {name: _plain(value) for name, (value, _) in values.items()}
    del values["(as read)"]
    content: dict[str, Any] = {}
    for name, old in record.as_read.items():
        new = _plain(values.pop(name)[0]) if name in values else old
        # Equal, but perhaps 1 where the record has 1.0, or with its keys in another order.
        content[name] = old if new == old else new
    for name, (value, field) in values.items():
        default = field.default
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if default is msgspec.NODEFAULT or value != default:
            content[name] = _plain(value)
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _keep(value: Any, content: Any) -> None:
    """Give each open record inside ``value`` the object that it was read from."""
    if isinstance(value, OpenRecord):
        msgspec.structs.force_setattr(value, "as_read", content)
    if isinstance(value, msgspec.Struct):
        for name, key in zip(value.__struct_fields__, value.__struct_encode_fields__):
            if key in content:
                _keep(getattr(value, name), content[key])
    elif isinstance(value, list | tuple):
        for item, inner in zip(value, content):
            _keep(item, inner)
    elif isinstance(value, dict):
        for key in value:
            _keep(value[key], content[key])


# From here on: msgspec's message made into ours. It runs only for a file that is wrong.


def _explained(
    kind: Any, content: Any, problem: str, where: str, error: type[FerEdgeError]
) -> FerEdgeError:
    text, _, place = problem.partition(" - at `$")
    path = place.removesuffix("`").removeprefix(".")
    named = re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", text, re.S)
    if named is not None:
        key = f"{path}.{named[2]}" if path else named[2]
        if named[1] == "missing required":
            return error(f"{where}: {key} is missing")
        return error(f"{where}: unknown key {key!r}", fix=_nearest(key, list(_keys(kind))))
    table = "a table" if issubclass(error, UsageError) else "an object"
    spot = f"{where}: {path}" if path else where
    value, expected = _at(kind, content, path, table)
    if not text.startswith(("Expected", "Invalid enum", "Number out of range", "Exceeds")):
        return error(f"{spot} {text}")  # what a record's own __post_init__ has to say
    if value is _UNKNOWN:
        return error(f"{spot}: {text[0].lower()}{text[1:]}")
    if issubclass(error, UsageError):
        near = get_close_matches(_shown(value).strip("'"), _choices(kind, path), n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        return error(f"{spot} is {_shown(value)}", fix=f"{guess}{path or where} takes {expected}")
    return error(f"{spot} is {_shown(value)}, not {expected}")


def _nearest(key: str, known: list[str]) -> str:
    plain = re.sub(r"\[\d+\]", "[]", key)
    near = get_close_matches(plain, known, n=1, cutoff=0.5)
    if not near:  # the right word in the wrong table is the commonest slip of all
        last = plain.rpartition(".")[2]
        near = [name for name in known if name.rpartition(".")[2] == last]
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


_UNKNOWN = object()


def _at(kind: Any, content: Any, path: str, table: str) -> tuple[Any, str]:
    """Return the value at ``path`` and what it should have been."""
    info = _type_at(kind, path)
    if info is None:
        return _UNKNOWN, ""
    for part in re.findall(r"[^.\[\]]+", path):
        content = content[int(part) if isinstance(content, list | tuple) else part]
    return content, _expected(info, table)


def _type_at(kind: Any, path: str) -> Any:
    import msgspec.inspect as inspect

    info: Any = inspect.type_info(kind)
    for part in re.findall(r"[^.\[\]]+|\[\.\.\.\]", path):
        # Of a union (``Side | None``) the member that has parts.
        inner = getattr(info, "types", (info,))
        info = next((each for each in inner if not isinstance(each, inspect.NoneType)), None)
        if isinstance(info, inspect.StructType):
            info = next((f.type for f in info.fields if f.encode_name == part), None)
        elif isinstance(info, inspect.TupleType):
            info = info.item_types[int(part)]
        else:
            info = None if part == "[...]" else getattr(info, "item_type", None)
    return info


def _choices(kind: Any, path: str) -> list[str]:
    info = _type_at(kind, path)
    inner = getattr(info, "types", (info,))
    return [str(value) for each in inner for value in getattr(each, "values", ())]


def _expected(info: Any, table: str) -> str:
    import msgspec.inspect as inspect

    if isinstance(info, inspect.UnionType):
        inner = [_expected(each, table) for each in info.types]
        return " or ".join(text for text in inner if text != "null") + (
            " or null" if "null" in inner and table == "an object" else ""
        )
    if isinstance(info, inspect.IntType | inspect.FloatType):
        return _number(info)
    if isinstance(info, inspect.LiteralType):
        return ", ".join(str(value) for value in info.values)
    if isinstance(info, inspect.StrType):
        if info.pattern is not None:
            return "a SHA-256 in hex" if "{64}" in info.pattern else f"a text like {info.pattern}"
        return "a text" if not info.min_length else "a text that is not empty"
    if isinstance(info, inspect.TupleType):
        return f"a list of {len(info.item_types)}: {_expected(info.item_types[0], table)} each"
    item = getattr(info, "item_type", None)
    if item is not None:
        least = f"{info.min_length} or more: " if info.min_length else ""
        return f"a list of {least}{_expected(item, table)} each"
    words = {"BoolType": "true or false", "NoneType": "null", "AnyType": "any value"}
    return words.get(type(info).__name__, table)


def _number(info: Any) -> str:
    text = "a whole number" if type(info).__name__ == "IntType" else "a number"
    low, high = info.ge, info.le
    if low is not None and abs(low) < _LARGEST:
        text += f" from {low:,}" if isinstance(low, int) else f" from {low:g}"
    if info.gt is not None:
        text += f" above {info.gt:g}"
    if high is not None and abs(high) < _LARGEST:
        text += f" to {high:,}" if isinstance(high, int) else f" to {high:g}"
    return text if info.lt is None else f"{text} to below {info.lt:g}"


def _keys(kind: Any) -> Iterator[str]:
    """All dotted keys of a record, for suggestions; a list's items are ``name[]``."""
    import msgspec.inspect as inspect

    def inside(info: Any, prefix: str, above: tuple[Any, ...]) -> Iterator[str]:
        for each in getattr(info, "types", (info,)):
            if isinstance(each, inspect.StructType) and each.cls not in above:
                for field in each.fields:
                    if not field.encode_name.startswith("("):
                        name = f"{prefix}{field.encode_name}"
                        yield name
                        yield from inside(field.type, f"{name}.", (*above, each.cls))
            elif hasattr(each, "item_type"):
                yield from inside(each.item_type, f"{prefix[:-1]}[].", above)

    return inside(inspect.type_info(kind), "", ())


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
