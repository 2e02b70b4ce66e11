"""Records: what a JSON or TOML file holds, declared once with its bounds, checked in one place.

::

    class Side(Record, frozen=True):
        size: Annotated[int, Meta(ge=1)]
        mean: Finite = 0.5

    side = read_record(Side, read_json(path), where=str(path))
    write_json(path, to_dict(side))

A :class:`Record` refuses an unknown field. An :class:`OpenRecord` is for a part of a file that may
have more fields than this version reads: unknown fields are kept, and written back unchanged.
Types are exact (JSON ``true`` is not the number 1); a whole number is accepted for a float.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from fer_edge.errors import FerEdgeError, IntegrityError, UsageError, unknown

__all__ = [
    "Count",
    "Finite",
    "Fraction",
    "NonNegative",
    "OpenRecord",
    "Record",
    "Seed",
    "Sha256",
    "keys",
    "read_record",
    "to_dict",
]

_LARGEST = sys.float_info.max

Finite = Annotated[float, Meta(ge=-_LARGEST, le=_LARGEST)]
"""Any number except NaN and the infinities."""
NonNegative = Annotated[float, Meta(ge=0, le=_LARGEST)]
"""A finite number from 0."""
Fraction = Annotated[float, Meta(ge=0, le=1)]
"""A number from 0 to 1."""
Count = Annotated[int, Meta(ge=0)]
"""A whole number from 0."""
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""A seed of a random generator."""
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""A SHA-256 as 64 hex digits."""

T = TypeVar("T")


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the records whose fields are all known. Give ``frozen=True`` to each subclass.

    With ``omit_defaults=True`` a field that has its default is not written. So a new field does not
    change what was written before it.
    """


class OpenRecord(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Base of the records that keep unknown fields.

    ``as_read`` is the object that the record was read from, empty for one made here. A field that
    has its default is written only if it was read. A record inside it is open too. Give
    ``frozen=True, kw_only=True, eq=False`` to each subclass.
    """

    # The JSON name is one that no file uses: this field is never read by name.
    as_read: dict[str, Any] = msgspec.field(default_factory=dict, name="(as read)")

    def __eq__(self, other: object) -> bool:
        """Whether both are written as equal JSON."""
        return type(self) is type(other) and to_dict(self) == to_dict(other)

    __hash__ = None  # type: ignore[assignment]


def read_record(
    kind: type[T],
    content: Any,
    where: str,
    error: type[FerEdgeError] = IntegrityError,
    *,
    fix: str | None = None,
) -> T:
    """Return ``content``, as a JSON or TOML reader gave it, as a record of type ``kind``.

    ``kind`` may be a dataclass: then unknown keys are ignored.

    Raises ``error``: one line that starts with ``where`` and names the field by its path, such as
    ``artifacts[0].size``. Its ``fix`` is the most similar key for an unknown one; for a
    :class:`UsageError` what the field takes; else the ``fix`` given.
    """
    try:
        record = msgspec.convert(content, kind)
    # ValueError: a number of thousands of digits, which Python does not print.
    except (msgspec.ValidationError, ValueError, OverflowError, RecursionError) as problem:
        explained = _explained(kind, content, str(problem), where, error)
        explained.fix = explained.fix or fix
        raise explained from None
    _keep(record, content)
    return record


def check_schema(content: Any, newest: int, where: str) -> None:
    """Refuse a file of a schema that this version does not read; its key is ``schema``.

    :class:`IntegrityError` if it is not a version number, :class:`UsageError` if it is newer.
    """
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema < 1:
        raise IntegrityError(f"{where}: schema is {_shown(schema)}, not a version number")
    if schema > newest:
        raise UsageError(
            f"{where} has schema {schema}; this fer-edge reads up to {newest}",
            fix="pip install -U fer-edge",
        )


def to_dict(record: msgspec.Struct) -> dict[str, Any]:
    """Return the JSON form of a record: :func:`read_record` reads it back to an equal one."""
    kind = type(record)
    values = {
        key: getattr(record, name)
        for name, key in zip(kind.__struct_fields__, kind.__struct_encode_fields__)
    }
    if not isinstance(record, OpenRecord):
        config = record.__struct_config__
        head = {} if config.tag_field is None else {config.tag_field: config.tag}
        if config.omit_defaults:
            known = _defaults(kind)
            values = {k: v for k, v in values.items() if k not in known or v != known[k]}
        return head | {key: plain(value) for key, value in values.items()}
    del values["(as read)"]
    content: dict[str, Any] = {}
    for name, old in record.as_read.items():
        new = plain(values.pop(name)) if name in values else old
        # Equal, but perhaps 1 where the record has 1.0, or with its keys in another order.
        same = new == old or (type(new) is float and type(old) is int and new == float(old))
        content[name] = old if same else new
    defaults = _defaults(kind)
    for name, value in values.items():
        if name not in defaults or value != defaults[name]:
            content[name] = plain(value)
    return content


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    fields = msgspec.structs.fields(kind)
    made = {
        each.encode_name: each.default_factory()
        for each in fields
        if each.default_factory is not msgspec.NODEFAULT
    }
    return made | {
        each.encode_name: each.default for each in fields if each.default is not msgspec.NODEFAULT
    }


def plain(value: Any) -> Any:
    """Return ``value`` with every record, tuple and mapping in it as JSON has it."""
    if isinstance(value, msgspec.Struct):
        return to_dict(value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
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
    parts = _parts(kind, content, place.removesuffix("`"))
    spot = f"{where}: {_path(parts)}" if parts else where
    named = re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", text, re.S)
    if named is not None:
        key = _path([*parts, named[2]])
        if named[1] == "missing required":
            return error(f"{where}: {key} is missing")
        return unknown("key", key, _keys_at(kind, content, parts), where=where, error=error)
    if not text.startswith(("Expected", "Invalid", "Number out of range", "Exceeds")):
        return error(f"{spot} {text}")  # from a record's own __post_init__
    value, info = _at(kind, content, parts)
    usage = issubclass(error, UsageError)
    expected = _expected(info, "a table" if usage else "an object")
    if usage:
        choices = [str(each) for each in getattr(info, "values", ())]
        if choices and isinstance(value, str):
            return unknown(_path(parts), value, choices, where=where, error=error)
        return error(f"{spot} is {_shown(value)}", fix=f"{_path(parts) or where} takes {expected}")
    return error(f"{spot} is {_shown(value)}, not {expected}")


def _parts(kind: Any, content: Any, place: str) -> list[str | int]:
    """Return msgspec's path as its parts; for ``[...]`` (of a dict) the key is looked for."""
    parts: list[str | int] = []
    for name, index, any_key in re.findall(r"\.([^.\[\]]+)|\[(\d+)\]|(\[\.\.\.\])", place):
        if any_key:
            table = _inner(content, parts)
            parts.append(next(key for key in table if not _fits(kind, content, parts, key)))
        else:
            parts.append(name or int(index))
    return parts


def _inner(content: Any, parts: Sequence[str | int]) -> Any:
    for part in parts:
        content = content[part]
    return content


def _fits(kind: Any, content: Any, parts: Sequence[str | int], key: str) -> bool:
    """Whether ``content`` is right once the dict at ``parts`` has no other key than ``key``."""
    only: Any = {key: _inner(content, parts)[key]}
    for i in range(len(parts) - 1, -1, -1):
        outer = _inner(content, parts[:i]).copy()
        outer[parts[i]] = only
        only = outer
    try:
        msgspec.convert(only, kind)
    except (msgspec.ValidationError, ValueError, OverflowError):
        return False
    return True


def _path(parts: Sequence[str | int]) -> str:
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += "." * bool(text) + (part if re.fullmatch(r"[\w-]+", part) else json.dumps(part))
    return text


def _at(kind: Any, content: Any, parts: Sequence[str | int]) -> tuple[Any, Any]:
    """Return the value at the path ``parts`` and the type that it should have."""
    import msgspec.inspect as inspect

    info: Any = inspect.type_info(kind)
    for part in parts:
        if isinstance(info, inspect.UnionType):
            info = _member(info, content, part)
        if isinstance(info, inspect.StructType | inspect.DataclassType):
            info = next((f.type for f in info.fields if f.encode_name == part), info)
        elif isinstance(info, inspect.TupleType):
            info = info.item_types[int(part)]
        elif isinstance(info, inspect.DictType):
            info = info.value_type
        else:
            info = getattr(info, "item_type", info)
        content = content[part]
    return content, info


def _member(union: Any, content: Any, part: str | int) -> Any:
    """Return the member of a union that ``content`` is read as, or the choice of their tags."""
    import msgspec.inspect as inspect

    members = [each for each in union.types if not isinstance(each, inspect.NoneType)]
    tags = {each.tag: each for each in members if getattr(each, "tag_field", None) is not None}
    if not tags:
        return members[0]
    if part == members[0].tag_field:
        return inspect.VarTupleType(inspect.LiteralType(tuple(tags)))
    return tags[content[members[0].tag_field]]


def _expected(info: Any, table: str) -> str:
    import msgspec.inspect as inspect

    if isinstance(info, inspect.UnionType):
        inner = list(dict.fromkeys(_expected(each, table) for each in info.types))
        if "a number" in inner and "a whole number" in inner:
            inner.remove("a whole number")
        # TOML has no null.
        return " or ".join(each for each in inner if each != "null" or table == "an object")
    if isinstance(info, inspect.IntType | inspect.FloatType):
        return _number(info)
    if isinstance(info, inspect.LiteralType):
        return f"one of {', '.join(str(value) for value in info.values)}"
    if isinstance(info, inspect.StrType):
        if info.pattern is not None:
            return "a SHA-256 in hex" if "{64}" in info.pattern else f"a text like {info.pattern}"
        return "a text" if not info.min_length else "a text that is not empty"
    if isinstance(info, inspect.TupleType):
        return f"a list of {len(info.item_types)}, each {_expected(info.item_types[0], table)}"
    item = getattr(info, "item_type", None)
    if item is not None:
        least = f"{info.min_length} or more, each " if info.min_length else ""
        return f"a list of {least or 'any length, each '}{_expected(item, table)}"
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


def keys(kind: type[msgspec.Struct]) -> list[str]:
    """Return all dotted keys of a record: for suggestions. A list's items are ``name[]``."""
    import msgspec.inspect as inspect

    return list(_keys_of(inspect.type_info(kind), "", ()))


def _keys_of(info: Any, prefix: str, above: tuple[Any, ...]) -> Iterator[str]:
    import msgspec.inspect as inspect

    for each in getattr(info, "types", (info,)):
        if isinstance(each, inspect.StructType) and each.cls not in above:
            for field in each.fields:
                if not field.encode_name.startswith("("):
                    name = f"{prefix}{field.encode_name}"
                    yield name
                    yield from _keys_of(field.type, f"{name}.", (*above, each.cls))
        elif hasattr(each, "item_type"):
            yield from _keys_of(each.item_type, f"{prefix[:-1]}[].", above)


def _keys_at(kind: Any, content: Any, parts: Sequence[str | int]) -> list[str]:
    """The keys that an unknown one in the record at ``parts`` may stand for."""
    import msgspec.inspect as inspect

    inner, info = _at(kind, content, parts)
    if isinstance(info, inspect.UnionType):
        info = _member(info, inner, "")
    own = [_path([*parts, key]) for key in _keys_of(info, "", ()) if "." not in key]
    return list(dict.fromkeys([*own, *(key for key in keys(kind) if "[" not in key)]))


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
