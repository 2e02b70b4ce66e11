"""The manifest: bytes survive, unknown keys too; an error names the path of the field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from fer_edge.bundle.manifest import Gate, Manifest, Network
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError
from fer_edge.pretrained import pretrained_path
from fer_edge.records import to_dict

SHIPPED = (pretrained_path("fer2013") / "manifest.json").read_bytes()


def old(**changes: Any) -> dict[str, Any]:
    """A manifest of schema 1 as an earlier version may have written it."""
    content = Manifest.from_bytes(SHIPPED).to_dict()
    return json.loads(json.dumps({**content, **changes}))


def test_the_shipped_manifest_is_written_again_as_it_was_read() -> None:
    manifest = Manifest.from_bytes(SHIPPED)
    assert manifest.to_bytes() == SHIPPED
    assert manifest.labels == EMOTIONS
    assert manifest.card.confidence is not None
    assert manifest.card.training.recipe is not None


def test_an_obsolete_or_unknown_key_survives() -> None:
    model = {"use": {"onnxruntime": "int8"}, "macs": 7, "spec": {"name": "x"}, "later": [1.0, 2]}
    gates = [{"why": "too slow", "top1": 1, "precision": "int8", "passed": False}]
    card = {"training": {"note": 1, "seed": 3}, "notes": {"b": 1, "a": 2}}
    manifest = Manifest.from_dict(old(model=model, gates=gates, card=card))
    assert (manifest.model.name, manifest.model.macs, manifest.gates[0].top1) == ("x", 7, 1.0)
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again == manifest
    content = json.loads(again.to_bytes())
    for name, before in (("model", model), ("gates", gates), ("card", card)):
        assert json.dumps(content[name]) == json.dumps(before)
    changed = to_dict(replace(manifest.model, parameters=5))
    assert changed == {**model, "parameters": 5}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), _json, max_size=3), st.integers())
def test_any_open_part_survives(more: dict[str, Any], seed: int) -> None:
    parts = {
        "model": {**more, "parameters": seed},
        "gates": [{**more, "flips": seed, "top1": seed}],
        "dataset": {**more, "source": "x"},
        "environment": more,
        "card": {**more, "training": {**more, "seed": seed}},
    }
    manifest = Manifest.from_dict(old(**parts))
    content = json.loads(Manifest.from_bytes(manifest.to_bytes()).to_bytes())
    assert {name: json.dumps(content[name]) for name in parts} == {
        name: json.dumps(part) for name, part in parts.items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"macs": True}}, "model.macs is True, not a whole number or null"),
        ({"model": {"spec": 3}}, "model.spec is 3, not an object or null"),
        ({"gates": [{}, {"passed": 1}]}, r"gates\[1\].passed is 1, not true or false or null"),
        ({"gates": [{"precision": None}]}, r"gates\[0\].precision is None, not a text"),
        ({"dataset": {"synthetic": "no"}}, "dataset.synthetic is 'no', not true or false"),
        ({"card": {"limits": "none"}}, "card.limits is 'none', not a list"),
        ({"card": {"training": {"seed": 1.5}}}, "card.training.seed is 1.5, not a whole number"),
        ({"card": {"confidence": {"abstain": {}}}}, "card.confidence.abstain.threshold is missing"),
        ({"input": {"name": "x", "dtype": "int8", "shape": []}}, "input.dtype is 'int8', not one"),
        ({"preprocessing": {"size": 64}}, "preprocessing.color is missing"),
        ({"name": 7}, "name is 7, not a text"),
        ({"nmae": "x"}, "unknown key 'nmae'"),
        ({"labels": ["happy"]}, "has the labels"),
    ],
)
def test_what_is_wrong_is_named_with_its_path(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError, match=f"^manifest.json:? {message}"):
        Manifest.from_dict(old(**changes))


def test_a_gate_made_here_holds_what_it_was_given() -> None:
    gate = Gate(precision="int8", target="openvino", passed=False)
    assert to_dict(gate) == {"precision": "int8", "target": "openvino", "passed": False}
    assert gate.key == ("int8", "openvino", "")
    assert Network().name == "unknown"
