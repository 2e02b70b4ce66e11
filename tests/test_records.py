"""Records: exact types, bounds beside the field, and one line that names the path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta, field
from msgspec.structs import replace

from fer_edge.errors import IntegrityError, RecipeError, UsageError
from fer_edge.files import parse_json, parse_toml, read_json, read_toml
from fer_edge.records import (
    Finite,
    NonNegative,
    OpenRecord,
    Record,
    Sha256,
    keys,
    read_record,
    to_dict,
)


class Part(Record, frozen=True):
    size: Annotated[int, Meta(ge=1)] = 1
    mean: Annotated[float, Meta(ge=0, le=1)] = 0.5
    any_number: Finite = 0.0
    kind: Literal["flat", "round"] = "flat"
    pair: tuple[Annotated[float, Meta(ge=0, lt=1)], Annotated[float, Meta(ge=0, lt=1)]] = (0.0, 0.5)
    names: tuple[str, ...] = ()
    digest: Sha256 | None = None
    on: bool = False

    def __post_init__(self) -> None:
        if self.size == 13:
            raise ValueError("has size 13")


class Open(OpenRecord, frozen=True, kw_only=True, eq=False):
    name: str
    speed: float = 0.0
    inner: Open | None = None


class Disk(Record, frozen=True, tag_field="form", tag="disk"):
    radius: NonNegative


class Square(Record, frozen=True, tag_field="form", tag="square"):
    side: NonNegative


class Whole(Record, frozen=True):
    part: Part
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    rest: dict[str, Any] = field(default_factory=dict)
    open: Open | None = None
    shape: Disk | Square = Square(1.0)


@pytest.mark.parametrize(
    ("content", "message", "fix"),
    [
        ({"part": {"size": True}}, "f: part.size is True", "takes a whole number from 1"),
        ({"part": {"size": 1.0}}, "f: part.size is 1.0", "takes a whole number from 1"),
        ({"part": {"size": 0}}, "f: part.size is 0", "takes a whole number from 1"),
        ({"part": {"size": 10**5000}}, "", ""),
        ({"part": {"mean": 10**5000}}, "f: part.mean is a number of thousands of digits", "0 to 1"),
        ({"part": {"mean": 10**400}}, "f: part.mean is 1000", "0 to 1"),
        ({"part": {"mean": True}}, "f: part.mean is True", "takes a number from 0 to 1"),
        ({"part": {"any_number": math.nan}}, "f: part.any_number is nan", "takes a number"),
        ({"part": {"any_number": math.inf}}, "f: part.any_number is inf", "takes a number"),
        ({"part": {"kind": "rund"}}, "f: unknown part.kind 'rund'", "did you mean 'round'?"),
        ({"part": {"kind": 3}}, "f: part.kind is 3", "takes one of flat, round"),
        (
            {"part": {"pair": [0.5]}},
            "f: part.pair is [0.5]",
            "list of 2, each a number from 0",
        ),
        ({"part": {"pair": [0, 1]}}, "f: part.pair[1] is 1", "takes a number from 0 to below 1"),
        ({"part": {"names": ["a", 1]}}, "f: part.names[1] is 1", "takes a text"),
        ({"part": {"digest": "abc"}}, "f: part.digest is 'abc'", "takes a SHA-256 in hex"),
        ({"part": {"digest": "a" * 64 + "\n"}}, "f: part.digest is", "takes a SHA-256 in hex"),
        ({"part": {"on": 1}}, "f: part.on is 1", "takes true or false"),
        ({"part": 3}, "f: part is 3", "takes a table"),
        ({"part": {"size": 13}}, "f: part has size 13", "None"),
        ({"part": {"sise": 1}}, "f: unknown key 'part.sise'", "did you mean 'part.size'?"),
        ({"part": {}, "mean": 1}, "f: unknown key 'mean'", "did you mean 'part.mean'?"),
        ({"part": {}, "parts": [{"seize": 1}]}, "f: unknown key 'parts[0].seize'", "size'?"),
        ({"part": {}, "zzzzzz": 1}, "f: unknown key 'zzzzzz'", "choose from: part, parts, by_name"),
        ({"part": {}, "parts": [{}, {"size": -2}]}, "f: parts[1].size is -2", "from 1"),
        ({"part": {}, "by_name": {"x": {"size": 0}}}, "f: by_name.x.size is 0", "from 1"),
        ({"part": {}, "by_name": {"x": {}, "a.b": {"on": 1}}}, 'f: by_name."a.b".on is 1', "true"),
        ({"part": {}, "by_name": {"x": {}, "y": 1}}, "f: by_name.y is 1", "takes a table"),
        (
            {"part": {}, "by_name": {"x": {"sise": 1}}},
            "f: unknown key 'by_name.x.s",
            "size'?",
        ),
        ({"part": {}, "shape": {"form": "disk"}}, "f: shape.radius is missing", "None"),
        ({"part": {}, "shape": {"form": "disk", "side": 1}}, "f: unknown key 'shape.side'", "mean"),
        ({"part": {}, "shape": {"form": "disc"}}, "f: unknown shape.form 'disc'", "'disk'?"),
        ({"part": {}, "shape": {"form": "square", "side": -1}}, "f: shape.side is -1", "from 0"),
        ({"part": {}, "shape": {}}, "f: shape.form is missing", "None"),
        ({"part": {}, "open": {"name": 1}}, "f: open.name is 1", "takes a text"),
        ({"part": {}, "open": {}}, "f: open.name is missing", "None"),
        ({}, "f: part is missing", "None"),
        (3, "f is 3", "f takes a table"),
        (None, "f is None", "f takes a table"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(content: Any, message: str, fix: str) -> None:
    if not message:  # valid, and no number is too long
        assert read_record(Whole, content, "f", UsageError).part.size == 10**5000
        return
    with pytest.raises(UsageError) as raised:
        read_record(Whole, content, "f", UsageError)
    assert str(raised.value).startswith(message)
    assert fix in str(raised.value.fix)
    assert "\n" not in str(raised.value)


def test_a_damaged_file_says_all_in_its_message() -> None:
    with pytest.raises(IntegrityError, match=r"^m: part\.size is 0, not a whole number from 1$"):
        read_record(Whole, {"part": {"size": 0}}, "m")
    with pytest.raises(IntegrityError, match=r"^m: part is \[\], not an object$"):
        read_record(Whole, {"part": []}, "m")


def test_an_open_record_keeps_what_it_does_not_know() -> None:
    content = {"later": [1], "speed": 2, "inner": {"odd": 0, "name": "b"}, "name": "a"}
    record = read_record(Open, content, "f")
    assert record.inner is not None
    assert (record.name, record.speed, record.inner.name) == ("a", 2.0, "b")
    assert repr(to_dict(record)) == repr(content)
    faster = replace(record, speed=3.5, inner=replace(record.inner, speed=1.0))
    assert list(to_dict(faster).items()) == [
        ("later", [1]),
        ("speed", 3.5),
        ("inner", {"odd": 0, "name": "b", "speed": 1.0}),
        ("name", "a"),
    ]
    assert faster != record
    assert to_dict(Open(name="b")) == {"name": "b"}
    assert read_record(Open, {"name": "b"}, "f") == Open(name="b")
    with_null = {"name": "b", "inner": None}
    assert to_dict(read_record(Open, with_null, "f")) == with_null


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*Whole.__struct_fields__, "x"], _json)))
def test_any_content_is_refused_or_makes_a_round_trip(content: dict[str, Any]) -> None:
    try:
        record = read_record(Whole, content, "f")
    except IntegrityError:
        return
    assert read_record(Whole, to_dict(record), "f") == record


@given(_json)
def test_an_open_record_is_written_as_it_was_read(more: Any) -> None:
    content = {"more": more, "name": "a"}
    assert to_dict(read_record(Open, content, "f")) is not content
    assert repr(to_dict(read_record(Open, content, "f"))) == repr(content)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"{", "is not JSON"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "Infinity"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[" * 65 + b"]" * 65, "nested more than 64 deep"),
        (b"1" * 5000, "is not JSON"),
    ],
)
def test_json_that_is_none_is_refused(text: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text)
    with pytest.raises(IntegrityError, match=reason) as raised:
        read_json(path)
    assert str(path) in str(raised.value)
    with pytest.raises(UsageError, match=reason):
        parse_json(text, "x", UsageError)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"a = 1\nb = \n", "line 2"),
        (b"\xff\xfe", "is not TOML"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
        (b".".join([b"a"] * 100) + b" = 1", "nested more than 64 deep"),
        (b"a = " + b"1" * 5000, "is not TOML"),
        (b"#" * (1 << 20) + b"#", "larger than 1 MiB"),
    ],
)
def test_toml_that_is_none_is_refused(text: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(text)
    with pytest.raises(UsageError, match=reason) as raised:
        read_toml(path)
    assert str(path) in str(raised.value)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no\.toml cannot be read: No such file"):
        read_toml(tmp_path / "no.toml", RecipeError)
    with pytest.raises(IntegrityError, match="cannot be read: it is a folder"):
        read_json(tmp_path)
    assert parse_toml("a = 1", "x") == {"a": 1}
    assert parse_json('{"a": [1, 2.5, null]}', "x") == {"a": [1, 2.5, None]}


def test_keys_are_dotted() -> None:
    assert keys(Open) == ["name", "speed", "inner"]
    assert {"part", "part.size", "parts[].size", "open.name", "shape.side"} <= set(keys(Whole))
