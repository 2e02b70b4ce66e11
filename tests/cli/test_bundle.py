"""``fer-edge bundle``: what it prints, where it writes, how it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from fer_edge.bundle import Bundle
from fer_edge.cli import main


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = 0
    try:
        main(["bundle", *map(str, args)])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def test_pack_and_unpack(
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    (tiny_bundle.path / "notes").write_text("mine")
    code, out, err = run(capsys, "pack", tiny_bundle.path)
    assert (code, out) == (0, "tiny.fer\n")
    assert "not in the manifest: notes" in err
    assert "6 files" in err
    assert run(capsys, "unpack", "tiny.fer")[:2] == (0, "tiny\n")
    assert Bundle.open("tiny").manifest == tiny_bundle.manifest

    code, out, err = run(capsys, "unpack", "tiny.fer")
    assert (code, out) == (2, "")
    assert "exists already" in err
    assert run(capsys, "unpack", "tiny.fer", "--replace")[0] == 0
    assert run(capsys, "pack", "tiny", "-o", "again.fer")[1] == "again.fer\n"
    assert Path("again.fer").read_bytes() == Path("tiny.fer").read_bytes()

    content = bytearray(Path("tiny.fer").read_bytes())
    content[len(content) // 2] ^= 1
    Path("bad.fer").write_bytes(content)
    code, out, err = run(capsys, "unpack", "bad.fer")
    assert (code, out) == (6, "")
    assert "bad.fer" in err
    assert not Path("bad").exists()

    Path("tiny.fer").rename("tiny.tar")
    assert run(capsys, "unpack", "tiny.tar")[0] == 2
    assert run(capsys, "unpack", "tiny.tar", "-o", "third")[0] == 0


def test_triton(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "repo"
    code, out, err = run(capsys, "triton", tiny_bundle.path, "-o", repository)
    assert (code, out) == (0, f"{repository / 'tiny_onnx'}\n")
    assert "no TensorRT model" in err
    assert run(capsys, "triton", tiny_bundle.path, "-o", repository)[0] == 2
    assert run(capsys, "triton", tiny_bundle.path, "-o", repository, "--replace")[0] == 0
    assert (
        run(capsys, "triton", tiny_bundle.path, "-o", tmp_path / "x", "--precision", "fp16")[0] == 2
    )


def test_deepstream(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "deepstream"
    code, out, err = run(
        capsys, "deepstream", tiny_bundle.path, "-o", folder, "--luma", "video", "--face-class", 2
    )
    assert (code, out) == (0, f"{folder}\n")
    assert "y = 0.01790" in err
    assert "operate-on-class-ids=2\n" in (folder / "config_infer_secondary_fer.txt").read_text()
    assert run(capsys, "deepstream", tiny_bundle.path, "-o", folder, "--threshold", 1)[0] == 2


def test_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fer_edge.pretrained._folder", lambda: tmp_path / "none")
    for command in (["pack"], ["triton", "-o", "x"], ["deepstream", "-o", "x"]):
        code, out, err = run(capsys, *command)
        assert (code, out) == (2, "")
        assert "fix:" in err
    assert run(capsys, "unpack", "none.fer")[0] == 2
    assert list(tmp_path.iterdir()) == []
