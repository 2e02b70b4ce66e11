"""A bundle that differs from its manifest in one byte is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_hypothesis import SHARED_FIXTURE
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.manifest import MANIFEST, Artifact, Manifest
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import sha256_bytes


def forge(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite the manifest with a valid digest: what a buggy or hostile writer would leave."""
    content = bundle.manifest.to_dict()
    change(content)
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    content["manifest_sha256"] = sha256_bytes(text.encode())
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    (bundle.path / MANIFEST).write_text(text, encoding="utf-8")


def test_round_trip(tiny_bundle: Bundle) -> None:
    again = Bundle.open(tiny_bundle.path)
    assert again.manifest == tiny_bundle.manifest
    assert again.manifest.sha256 == tiny_bundle.manifest.sha256
    assert again.labels == EMOTIONS
    assert again.preprocessing.std == 0.2550
    assert again.unlisted() == []
    images, logits = again.golden()
    assert images.shape[1:] == (1, 48, 48)
    assert logits.shape == (len(images), 7)


def test_digest_chain(tiny_bundle: Bundle) -> None:
    int8 = tiny_bundle.artifact(precision="int8", target="onnxruntime")
    fp32 = tiny_bundle.parent(int8)
    assert fp32 is not None
    assert fp32.path == "model.fp32.onnx"
    checkpoint = tiny_bundle.parent(fp32)
    assert checkpoint is not None
    assert checkpoint.path == "checkpoint.safetensors"
    assert tiny_bundle.parent(checkpoint) is None


def test_one_flipped_byte_anywhere_is_refused(tiny_bundle: Bundle) -> None:
    files = [MANIFEST, *(artifact.path for artifact in tiny_bundle.manifest.artifacts)]
    for name in files:
        path = tiny_bundle.path / name
        content = path.read_bytes()
        for offset in {0, 1, len(content) // 3, len(content) // 2, len(content) - 1}:
            damaged = bytearray(content)
            damaged[offset] ^= 1 << (offset % 8)
            path.write_bytes(damaged)
            with pytest.raises(IntegrityError, match=name.replace(".", r"\.")) as caught:
                Bundle.open(tiny_bundle.path)
            assert caught.value.exit_code == 6
            assert caught.value.fix
        path.write_bytes(content)
    Bundle.open(tiny_bundle.path)


def test_every_byte_of_the_manifest_counts(tiny_bundle: Bundle) -> None:
    path = tiny_bundle.path / MANIFEST
    content = path.read_bytes()
    # White space too: it changes no value, but then the bytes are not what was written.
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 0x01
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(bytes(damaged))


@settings(max_examples=200, suppress_health_check=SHARED_FIXTURE)
@given(data=st.data())
def test_damaged_manifests_never_crash(tiny_bundle: Bundle, data: st.DataObject) -> None:
    content = tiny_bundle.manifest.to_bytes()
    start = data.draw(st.integers(0, len(content)))
    end = data.draw(st.integers(start, len(content)))
    middle = data.draw(st.binary(max_size=12))
    damaged = content[:start] + middle + content[end:]
    if damaged == content:
        assert Manifest.from_bytes(damaged) == tiny_bundle.manifest
    else:
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(damaged)


@given(
    st.binary(max_size=60) | st.just(b"[" * 100_000) | st.just(b'{"manifest_sha256": "\\ud800"}')
)
def test_garbage_is_no_manifest(content: bytes) -> None:
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(content)


def test_truncated_and_missing_files(tiny_bundle: Bundle) -> None:
    path = tiny_bundle.path / "model.fp32.onnx"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(IntegrityError, match=r"model\.fp32\.onnx: it has .* bytes"):
        Bundle.open(tiny_bundle.path)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"model\.fp32\.onnx: the file is missing"):
        Bundle.open(tiny_bundle.path)
    # Only reading the manifest is what inspect does to name every bad file.
    assert Bundle.open(tiny_bundle.path, check=False).manifest == tiny_bundle.manifest
    (tiny_bundle.path / MANIFEST).write_bytes(tiny_bundle.manifest.to_bytes()[:200])
    with pytest.raises(IntegrityError, match="damaged or incomplete"):
        Bundle.open(tiny_bundle.path, check=False)


def test_not_a_bundle(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError) as caught:
            Bundle.open(path)
        assert "fer-edge build" in str(caught.value.fix)
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(UsageError, match="is a file"):
        Bundle.open(file)


def test_newer_schema(tiny_bundle: Bundle) -> None:
    forge(tiny_bundle, lambda content: content.update(schema=2, new_field=1))
    with pytest.raises(UsageError, match="schema 2") as caught:
        Bundle.open(tiny_bundle.path)
    assert "pip install -U" in str(caught.value.fix)


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "a/../../b",
        "a\\b",
        "",
        ".",
        "..",
        "C:/x",
        "a//b",
        "./a",
        MANIFEST,
        "a\0b",
    ],
)
def test_paths_stay_inside(tiny_bundle: Bundle, path: str) -> None:
    forge(tiny_bundle, lambda content: content["artifacts"][0].update(path=path))
    with pytest.raises(IntegrityError, match="the path"):
        Bundle.open(tiny_bundle.path)
    with (
        pytest.raises(UsageError, match="cannot be a bundle's file"),
        BundleWriter(tiny_bundle.path.with_name("other")) as writer,
    ):
        writer.add_bytes(b"x", path, format="json")


def test_links_that_leave(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tiny_bundle.path / "model.fp32.onnx"
    outside = tmp_path / "outside.onnx"
    shutil.move(path, outside)
    path.symlink_to(outside)
    with pytest.raises(IntegrityError, match="leads out"):
        Bundle.open(tiny_bundle.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(schema=True),
        lambda c: c.update(schema="1"),
        lambda c: c.update(schema=0),
        lambda c: c.pop("name"),
        lambda c: c.update(name=7),
        lambda c: c.update(synthetic=1),
        lambda c: c.update(labels=list(reversed(EMOTIONS))),
        lambda c: c.update(labels="angry"),
        lambda c: c.update(unheard_of=1),
        lambda c: c.update(artifacts={}),
        lambda c: c["artifacts"].append(7),
        lambda c: c["artifacts"].append(c["artifacts"][0]),
        lambda c: c["artifacts"][0].update(size=-1),
        lambda c: c["artifacts"][0].update(size=1.0),
        lambda c: c["artifacts"][0].update(sha256="A" * 64),
        lambda c: c["artifacts"][0].update(sha256="0" * 63),
        lambda c: c["artifacts"][0].update(format="pickle"),
        lambda c: c["artifacts"][0].update(precision="int4"),
        lambda c: c["artifacts"][0].update(parent_sha256="x"),
        lambda c: c["artifacts"][0].pop("meta"),
        lambda c: c.update(gates=[1]),
        lambda c: c.update(calibration=[]),
        lambda c: c["preprocessing"].update(std=0),
        lambda c: c["preprocessing"].update(mean="0.5"),
        lambda c: c["preprocessing"].update(size=64),
        lambda c: c["input"].update(dtype="float16"),
        lambda c: c["output"].pop("shape"),
        lambda c: c["output"].update(shape=[True]),
    ],
)
def test_types_are_strict(tiny_bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    forge(tiny_bundle, change)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        Bundle.open(tiny_bundle.path)


def test_no_such_artifact(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.find(precision="fp16") is None
    with pytest.raises(UsageError, match=r"no fp16 onnx; it has: .*model\.fp32\.onnx") as caught:
        tiny_bundle.artifact(format="onnx", precision="fp16")
    assert "--precision fp16" in str(caught.value.fix)
    with pytest.raises(UsageError) as caught:
        tiny_bundle.artifact(format="onnx", precision="int8", target="tensorrt")
    assert "--target tensorrt" in str(caught.value.fix)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.zeros((2, 1, 48, 48), np.uint8)},
        {"images": np.zeros((2, 48, 48), np.uint8), "logits": np.zeros((2, 7), np.float32)},
        {"images": np.zeros((2, 1, 48, 48), np.uint8), "logits": np.zeros((2, 7))},
        {"images": np.zeros((2, 1, 48, 48), np.uint8), "logits": np.zeros((3, 7), np.float32)},
        {
            "images": np.zeros((1, 1, 48, 48), np.uint8),
            "logits": np.full((1, 7), np.nan, np.float32),
        },
        {"images": np.zeros((0, 1, 48, 48), np.uint8), "logits": np.zeros((0, 7), np.float32)},
        {"images": np.array([None]), "logits": np.zeros((1, 7), np.float32)},  # needs pickle
    ],
)
def test_golden_is_checked(tmp_path: Path, arrays: dict[str, Any]) -> None:
    file = tmp_path / "golden.npz"
    np.savez(file, **arrays)
    with BundleWriter(tmp_path / "b") as writer:
        writer.add_file(file, "golden.npz", format="npz")
    with pytest.raises(IntegrityError, match=r"golden\.npz"):
        Bundle.open(tmp_path / "b").golden()


def test_manifest_is_immutable(tiny_bundle: Bundle) -> None:
    with pytest.raises(AttributeError, match="immutable"):
        tiny_bundle.manifest.name = "x"  # type: ignore[misc]
    assert isinstance(tiny_bundle.manifest.artifacts[0], Artifact)
