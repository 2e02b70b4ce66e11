"""Forged bundles, whose digests are right: one line of error, or the same answers as before."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_bundle import golden_images
from fixtures_forged import (
    ESCAPE,
    code_of,
    controls,
    error_of,
    forged_json,
    forged_npz,
    signed,
)
from test_files import odd_files

from fer_edge import Classifier
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.backends.openvino import OpenVINOBackend
from fer_edge.backends.tensorrt import TensorRTBackend
from fer_edge.bundle import GOLDEN, Bundle
from fer_edge.bundle.manifest import LARGEST_MANIFEST, MANIFEST, Manifest
from fer_edge.bundle.packing import pack_bundle, unpack_bundle
from fer_edge.bundle.usable import usable_engine
from fer_edge.cli import main
from fer_edge.errors import FerEdgeError, IntegrityError, UsageError
from fer_edge.pretrained import pretrained_path


def forge(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((bundle / MANIFEST).read_text())
    del content["manifest_sha256"]
    change(content)
    (bundle / MANIFEST).write_bytes(signed(content))


def _content(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / MANIFEST).read_text())
    del content["manifest_sha256"]
    return content


def _use(path: Path) -> None:
    bundle = Bundle.open(path, check=False)
    bundle.threshold, bundle.preprocessing, bundle.labels, bundle.manifest.by_votes  # noqa: B018
    for backend in (OnnxRuntimeBackend, OpenVINOBackend, TensorRTBackend):
        usable_engine(bundle, backend, here=False)


WORDS = (
    ["inspect"],
    ["inspect", "--format", "json"],
    ["inspect", "--format", "csv"],
    ["inspect", "--format", "markdown"],
    ["inspect", "--card"],
    ["inspect", "--card", "--format", "json"],
)


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a manifest that has every field: the one of the package, without its graphs."""
    path = tmp_path_factory.mktemp("forged") / "votes"
    path.mkdir()
    shutil.copy2(pretrained_path("votes") / MANIFEST, path)
    return path


def test_every_forged_field_is_refused_or_harmless(
    shipped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever one field holds: open, choose, inspect and card end in an error of ours or well."""
    refused = used = 0
    for what, content in forged_json(_content(pretrained_path("votes")), 200):
        (shipped / MANIFEST).write_bytes(signed(content))
        error = error_of(lambda: _use(shipped), what)
        used, refused = used + (error is None), refused + (error is not None)
        words = WORDS[(used + refused) % len(WORDS)]
        code = code_of([*words, str(shipped)], what)
        # The files are not there: 6 is the end of an inspection that went well.
        assert code == (6 if error is None else error.exit_code), what
        shown = capsys.readouterr()
        assert not controls(shown.out + shown.err), what
        assert "Traceback" not in shown.err, what
    assert refused > 25
    assert used > 25


def test_a_forged_manifest_does_not_change_an_answer(tiny_bundle: Bundle) -> None:
    """A manifest with one changed field is refused, or the network answers as before."""
    face = golden_images(1)[0, 0]
    before = Classifier(tiny_bundle.path).predict(face)
    content = _content(tiny_bundle.path)
    equal = 0
    for what, forged in forged_json(content, 60, seed=1):
        (tiny_bundle.path / MANIFEST).write_bytes(signed(forged))
        try:
            answer = Classifier(tiny_bundle.path).predict(face)
        except FerEdgeError:
            continue
        assert answer.label == before.label, what
        # Another engine of the bundle, or another threshold: the same network.
        assert answer.probabilities == pytest.approx(before.probabilities, abs=1e-3), what
        equal += 1
    assert equal


def test_every_forged_golden_file_is_refused_or_equal(tiny_bundle: Bundle) -> None:
    images, logits = tiny_bundle.golden()
    path, refused = tiny_bundle.path / GOLDEN, 0
    for what, forged in forged_npz(images, logits, 120):
        path.write_bytes(forged)

        def list_it(content: dict[str, Any], forged: bytes = forged) -> None:
            for artifact in content["artifacts"]:
                if artifact["path"] == GOLDEN:
                    artifact["sha256"] = hashlib.sha256(forged).hexdigest()
                    artifact["size"] = len(forged)

        forge(tiny_bundle.path, list_it)
        found: list[np.ndarray] = []

        def read(found: list[np.ndarray] = found) -> None:
            found += Bundle.open(tiny_bundle.path).golden()

        error = error_of(read, what)
        if error is None:
            assert np.array_equal(found[0], images), what
            assert np.array_equal(found[1], logits), what
        else:
            assert isinstance(error, IntegrityError), what
            refused += 1
    assert refused > 100


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_golden_files_that_numpy_writes_are_read(save: Any, tiny_bundle: Bundle) -> None:
    from fer_edge.bundle.golden import golden_from_bytes

    images, logits = tiny_bundle.golden()
    buffer = io.BytesIO()
    save(buffer, logits=logits, images=images, more=np.arange(3))
    again = golden_from_bytes(buffer.getvalue(), 7, "x")
    assert np.array_equal(again[0], images)
    assert np.array_equal(again[1], logits)


@pytest.mark.parametrize("name", [MANIFEST, GOLDEN])
@pytest.mark.parametrize(
    "kind", ["pipe", "socket", "device", "loop", "dangling", "folder", "sparse", "link to pipe"]
)
def test_only_regular_files_of_a_bundle_are_read(
    name: str, kind: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = tiny_bundle.path / name
    (tmp_path / "odd").mkdir()
    with odd_files(tmp_path / "odd") as odd:
        path.unlink()
        if kind in {"pipe", "folder", "sparse"}:
            odd[kind].rename(path)
        else:
            path.symlink_to(odd[kind] if kind != "loop" else path)
        with pytest.raises((UsageError, IntegrityError)) as raised:
            Bundle.open(tiny_bundle.path)
        assert name in str(raised.value)


def test_a_link_out_of_the_bundle_is_not_followed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    real = tmp_path / "elsewhere.json"
    (tiny_bundle.path / MANIFEST).rename(real)
    (tiny_bundle.path / MANIFEST).symlink_to(real)
    with pytest.raises(IntegrityError, match=r"manifest\.json: a link leads out of the bundle"):
        Bundle.open(tiny_bundle.path)
    (tiny_bundle.path / MANIFEST).unlink()
    real.rename(tiny_bundle.path / "real.json")
    (tiny_bundle.path / MANIFEST).symlink_to("real.json")
    assert Bundle.open(tiny_bundle.path).labels == tiny_bundle.labels


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("manifest.json/x", "below the file manifest.json"),
        ("model.fp32.onnx/x", r"below the file model\.fp32\.onnx"),
        ("a\x1b[2J", "control a terminal"),
        ("a\nb", "control a terminal"),
        ("n" * 256, "too long"),
        ("n/" * 600 + "x", "too long"),
        ("./x", "not a plain relative path"),
    ],
)
def test_a_path_that_no_bundle_has_is_refused(path: str, message: str, tiny_bundle: Bundle) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["artifacts"][-1]["path"] = path

    forge(tiny_bundle.path, rename)
    with pytest.raises(IntegrityError, match=message) as raised:
        Bundle.open(tiny_bundle.path)
    assert not controls(str(raised.value))


@pytest.mark.parametrize("size", [10**30, 2**63, 2**31 + 1, -1])
def test_a_size_that_no_file_has_is_the_reason(size: int, tiny_bundle: Bundle) -> None:
    def enlarge(content: dict[str, Any]) -> None:
        content["artifacts"][0]["size"] = size

    forge(tiny_bundle.path, enlarge)
    with pytest.raises(IntegrityError, match=r"artifacts\[0\]\.size is -?[0-9]+, not a whole"):
        Bundle.open(tiny_bundle.path)


def _archive(manifest: bytes, size: int | None = None) -> bytes:
    """Return the start of a .fer file: the header and the bytes of its manifest."""
    member = tarfile.TarInfo(MANIFEST)
    member.size = len(manifest) if size is None else size
    return member.tobuf(tarfile.USTAR_FORMAT) + manifest + bytes(-len(manifest) % 512)


def test_an_archive_of_a_million_entries_is_refused_by_its_header(
    tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = tmp_path / "x.fer"
    path.write_bytes(_archive(b"{", size=300_000_000))
    with pytest.raises(IntegrityError, match="its manifest claims 300,000,000 bytes"):
        unpack_bundle(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_of_many_empty_files_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    content = _content(tiny_bundle.path)
    one = {**content["artifacts"][-1], "size": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    content["artifacts"] = [{**one, "path": f"f{i}"} for i in range(8000)]
    manifest = signed(content)
    assert len(manifest) < LARGEST_MANIFEST
    path = tmp_path / "x.fer"
    path.write_bytes(_archive(manifest))
    start = time.process_time()
    with pytest.raises(IntegrityError, match="artifacts is"):
        unpack_bundle(path, tmp_path / "out")
    assert time.process_time() - start < 60  # it was quadratic: minutes
    assert not (tmp_path / "out").exists()


def test_an_archive_that_is_too_short_writes_nothing(tiny_bundle: Bundle, tmp_path: Path) -> None:
    content = _content(tiny_bundle.path)
    content["artifacts"][0]["size"] = 2 << 30
    path = tmp_path / "x.fer"
    path.write_bytes(_archive(signed(content)) + bytes(4096))
    with pytest.raises(IntegrityError, match="it is incomplete"):
        unpack_bundle(path, tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "dangling", "folder"])
def test_an_archive_that_is_no_file_is_refused(kind: str, tmp_path: Path) -> None:
    with odd_files(tmp_path) as odd, pytest.raises(UsageError, match=r"cannot be read|not exist"):
        unpack_bundle(odd[kind], tmp_path / "out")


@pytest.mark.parametrize(
    "name", ["", "..", "a/../../b", "x" * 5000, ESCAPE, "\0", "a\nb", "-o", "glücklich"]
)
def test_a_bundle_with_any_name_is_packed_here(
    name: str,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def rename(content: dict[str, Any]) -> None:
        content["name"] = name

    forge(tiny_bundle.path, rename)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    main(["bundle", "pack", str(tiny_bundle.path)])
    shown = capsys.readouterr()
    assert not controls(shown.out + shown.err)
    (packed,) = here.iterdir()
    assert packed.suffix == ".fer"
    assert unpack_bundle(packed, tmp_path / "again").manifest.name == name
    assert pack_bundle(Bundle.open(tmp_path / "again"), tmp_path / "b.fer").size == (
        packed.stat().st_size
    )


def test_a_manifest_that_is_no_object_is_refused(tiny_bundle: Bundle) -> None:
    for content in (None, [], "x", 3, {}, {"schema": 1}, {"schema": 10**30}, {"schema": True}):
        (tiny_bundle.path / MANIFEST).write_bytes(signed(content))
        with pytest.raises((IntegrityError, UsageError)):
            Bundle.open(tiny_bundle.path)


def test_numbers_of_thousands_of_digits_are_refused(tiny_bundle: Bundle) -> None:
    text = (tiny_bundle.path / MANIFEST).read_text()
    for digits in ("9" * 5000, "1e" + "9" * 500, "-" + "9" * 100_000):
        changed = text.replace('"macs": 124584', f'"macs": {digits}')
        assert changed != text
        with pytest.raises(IntegrityError) as raised:
            Manifest.from_bytes(changed.encode())
        assert len(str(raised.value)) < 500


def test_a_manifest_that_grows_without_end_is_refused(tiny_bundle: Bundle) -> None:
    path = tiny_bundle.path / MANIFEST
    with open(path, "ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="larger than 4 MiB"):
        Bundle.open(tiny_bundle.path)
    os.truncate(path, 0)
    with pytest.raises(IntegrityError, match="damaged or incomplete"):
        Bundle.open(tiny_bundle.path)
