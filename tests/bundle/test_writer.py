"""A writer replaces a bundle as a whole, and what was made from a replaced file goes with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_bundle import write_bundle

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError, UsageError


def test_nothing_shows_before_the_end(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_bytes(b"x", "a.json", format="json")
        assert not (tmp_path / "b").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_an_error_leaves_the_old(tmp_path: Path) -> None:
    old = write_bundle(tmp_path / "b")
    with pytest.raises(ZeroDivisionError), BundleWriter(tmp_path / "b", old) as writer:
        writer.add_bytes(b"two", "model.fp32.onnx", format="onnx", precision="fp32")
        raise ZeroDivisionError
    assert Bundle.open(tmp_path / "b").manifest == old.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_base_is_carried_over(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "copy", tiny_bundle) as writer:
        writer.add_bytes(b"{}\n", "bench.json", format="json")
        writer.set(name="copy")
    copy = Bundle.open(tmp_path / "copy")
    assert copy.manifest.artifacts[:-1] == tiny_bundle.manifest.artifacts
    assert copy.manifest.card == tiny_bundle.manifest.card
    assert copy.manifest.name == "copy"
    assert copy.manifest.gates == tiny_bundle.manifest.gates
    assert copy.manifest.synthetic is True


def test_a_damaged_base_is_not_laundered(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tiny_bundle.path / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with (
        pytest.raises(IntegrityError, match=r"model\.fp32\.onnx"),
        BundleWriter(tmp_path / "copy", tiny_bundle),
    ):
        pass
    assert not list(tmp_path.glob("*copy*"))


def test_replacing_a_file_drops_what_came_of_it(tiny_bundle: Bundle) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.add_bytes(b"new", "model.fp32.onnx", format="onnx", precision="fp32")
        assert writer.dropped == ["model.int8.onnxruntime.onnx", "model.int8.openvino.onnx"]
    after = Bundle.open(tiny_bundle.path)
    assert after.find(precision="int8") is None
    assert after.manifest.gates == ()
    assert after.unlisted() == []


def test_the_same_bytes_again_drop_nothing(tiny_bundle: Bundle) -> None:
    content = (tiny_bundle.path / "model.fp32.onnx").read_bytes()
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.add_bytes(
            content,
            "model.fp32.onnx",
            format="onnx",
            precision="fp32",
            parent="checkpoint.safetensors",
        )
        assert writer.dropped == []
    assert Bundle.open(tiny_bundle.path).manifest.artifacts == tiny_bundle.manifest.artifacts


def test_remove(tiny_bundle: Bundle) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.remove("model.int8.openvino.onnx")
        with pytest.raises(UsageError, match="is not in the bundle"):
            writer.remove("model.fp16.onnx")
    after = Bundle.open(tiny_bundle.path)
    assert [gate.target for gate in after.manifest.gates] == ["onnxruntime"]
    assert not (after.path / "model.int8.openvino.onnx").exists()


def test_a_gate_stays_while_it_judges_another_file(tiny_bundle: Bundle) -> None:
    """A plan has the precision, target and variant of its graph, and so the same gate."""
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        for name, format in (("model.int8.tensorrt.onnx", "onnx"), ("engines/x.plan", "plan")):
            content = name.encode()
            writer.add_bytes(content, name, format=format, precision="int8", target="tensorrt")
        writer.add_gate({"precision": "int8", "target": "tensorrt", "passed": True})
    before = Bundle.open(tiny_bundle.path)
    with BundleWriter(before.path, before) as writer:
        writer.remove("engines/x.plan")
    after = Bundle.open(before.path)
    assert after.manifest.gates == before.manifest.gates
    with BundleWriter(after.path, after) as writer:
        writer.remove("model.int8.tensorrt.onnx")
    assert "tensorrt" not in {gate.target for gate in Bundle.open(after.path).manifest.gates}


def test_gates_replace_their_own_kind(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_gate({"precision": "int8", "target": "onnxruntime", "passed": False})
        writer.add_gate({"precision": "int8", "target": "openvino", "passed": True})
        writer.add_gate({"precision": "int8", "target": "onnxruntime", "passed": None})
    passed = [gate.passed for gate in Bundle.open(tmp_path / "b").manifest.gates]
    assert passed == [True, None]


def test_fields(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as writer:
        writer.set(model={"spec": {"name": "x", "options": {"widths": (1, 2)}}}, labels=EMOTIONS)
        with pytest.raises(TypeError, match="no field"):
            writer.set(artifacts=[])
        with pytest.raises(ValueError, match="Out of range float"):
            writer.set(card={"a": float("nan")})
    assert Bundle.open(tmp_path / "b").manifest.model.spec["options"] == {"widths": [1, 2]}


def test_unlisted_files_survive(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    plan = bundle.path / "engines" / "sm87" / "x.plan"
    plan.parent.mkdir(parents=True)
    plan.write_bytes(b"plan")
    (bundle.path / "notes.txt").write_text("mine")
    after = write_bundle(tmp_path / "b", b"two", Bundle.open(tmp_path / "b"))
    assert after.unlisted() == ["notes.txt", "engines/sm87/x.plan"]
    assert plan.read_bytes() == b"plan"


def test_only_bundles_are_overwritten(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="is not a bundle"):
        write_bundle(tmp_path / "home")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is not a bundle"):
        write_bundle(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    write_bundle(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "home"]


def test_a_link_to_a_bundle_stays_a_link(tmp_path: Path) -> None:
    write_bundle(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    write_bundle(tmp_path / "current", b"two")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "model.fp32.onnx").read_bytes() == b"two"
