"""Atomic writes: a target is either what it was or what it was to become."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fer_edge.files import atomic_path, sha256_bytes, sha256_file, write_bytes, write_json


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model.onnx"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="half way"), atomic_path(target) as temporary:
        temporary.write_bytes(b"ne")
        raise RuntimeError("half way")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_target_is_untouched_until_the_body_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_bytes(target, b"old")
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.suffix == ".json"
        assert temporary.parent == tmp_path  # the same file system, so that rename is atomic
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new"


def test_bytes_are_on_disk_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (order.append("rename"), replace(self, to))[1]
    )
    write_bytes(tmp_path / "x", b"1")
    assert order == ["fsync", "rename", "fsync"]


def test_the_file_mode_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "x", b"1")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_json(target, {"top1": 0.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(target, {"top1": float("nan")})
    assert json.loads(target.read_text()) == {"top1": 0.5}


def test_digest_of_a_file_is_the_digest_of_its_bytes(tmp_path: Path) -> None:
    content = os.urandom(3_000_001)  # more than two read chunks, and not a multiple of one
    (tmp_path / "x").write_bytes(content)
    assert sha256_file(tmp_path / "x") == sha256_bytes(content)
