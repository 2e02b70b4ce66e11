"""``fer-edge inspect``: the whole truth of a bundle, and exit code 6 when it is not."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = 0
    try:
        main(["inspect", *arguments])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_table(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, str(tiny_bundle.path))
    assert (code, err) == (0, "")
    for expected in (
        "SYNTHETIC",
        "tiny, 415 parameters, 124,584 multiply-adds",
        "images uint8[N, 1, 48, 48]",
        "angry disgust fear happy sad surprise neutral",
        "int8 onnxruntime passed",
        "recipe tests, count 8",
        "Apache-2.0",
        "digests      all checked",
    ):
        assert expected in out
    tree = out[out.index("checkpoint.safetensors") :].splitlines()
    assert [line.split()[0:2] for line in tree[1:3]] == [
        ["`-", "model.fp32.onnx"],
        ["|-", "model.int8.onnxruntime.onnx"],
    ]


def test_json(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    (tiny_bundle.path / "notes.txt").write_text("mine")
    code, out, _ = run(capsys, str(tiny_bundle.path), "--format", "json")
    content = json.loads(out)
    assert code == 0
    assert content["checked"] is True
    assert content["faults"] == {}
    assert content["unlisted"] == ["notes.txt"]
    assert content["manifest"] == tiny_bundle.manifest.to_dict()
    assert content["manifest_sha256"] == tiny_bundle.manifest.sha256


def test_csv_and_markdown(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, str(tiny_bundle.path), "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["file"] for row in rows] == [a.path for a in tiny_bundle.manifest.artifacts]
    assert {row["status"] for row in rows} == {"checked"}
    _, out, _ = run(capsys, str(tiny_bundle.path), "--format", "markdown")
    assert "| model.fp32.onnx | onnx | fp32 |" in out


def test_gates_and_environment_in_words(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    with BundleWriter(tiny_bundle.path, tiny_bundle) as writer:
        writer.set(
            environment={
                "machine": {"cpu": "Zen", "cores": 2, "gpu": ["H200"]},
                "python": "3.11",
                "packages": {"onnxruntime": "1.32"},
                "git": {"commit": "a" * 40, "dirty": True},
                "threads": 1,
            },
            card={"limits": ["one", "two"], "long": "word " * 60},
            calibration={"count": 1, "replaced": True, "recipe": {"a": None, "b": 0.5}},
        )
        for gate in (
            {"precision": "int8", "target": "onnxruntime", "passed": True, "status": "passed",
             "reason": "passed", "top1": 0.5, "reference_top1": 0.75, "flips": 3, "n": 3589,
             "split": "public"},
            {"precision": "int8", "target": "openvino", "passed": False, "status": "failed",
             "reason": "top-1 dropped"},
            {"precision": "fp16", "target": "", "passed": None, "status": "not verified"},
        ):  # fmt: skip
            writer.add_gate(gate)
    _, out, _ = run(capsys, str(tiny_bundle.path))
    for expected in (
        "int8 onnxruntime passed: top1 0.5000, reference 0.7500, 3 labels of 3,589 flip (public)",
        "int8 openvino FAILED, failed, top-1 dropped",
        "fp16 not decided, not verified",
        "Zen, 2 cores, H200, python 3.11, onnxruntime 1.32, commit aaaaaaaaaaaa, with local",
        "one; two",
        "count 1, replaced yes, recipe {a -, b 0.5}",
    ):
        assert expected in out
    assert max(map(len, out.splitlines())) <= 110


def test_the_plans_that_a_device_timed(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {"precision": "int8", "variant": "all-int8", "p50_ms": 0.25, "flips": 0.0125, "kl": 1e-3}
    slow = {"precision": "fp16", "variant": "", "p50_ms": None, "flips": None, "kl": None}
    rows = [{**kept, "kept": True, "why": "the fastest"}, {**slow, "kept": False, "why": "failed"}]
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        meta = {"choice": {"rule": "any", "candidates": [*rows, "forged"]}}
        writer.add_bytes(b"plan", "engines/x.plan", format="plan", meta=meta)
        writer.add_bytes(b"plan", "engines/y.plan", format="plan", meta={"choice": "forged"})
    code, out, _ = run(capsys, str(tiny_bundle.path))
    assert code == 0
    timed = [" ".join(line.split()) for line in out.splitlines() if line.startswith("timed plan")]
    assert timed == [
        "timed plan int8 all-int8: p50 0.25 ms, flips 1.25%, KL 0.001: kept: the fastest",
        "timed plan fp16: p50 - ms, flips -, KL -: not kept: failed",
    ]


@pytest.mark.parametrize("fmt", ["table", "json", "csv", "markdown"])
def test_damage_is_shown_and_ends_in_6(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], fmt: str
) -> None:
    path = tiny_bundle.path / "model.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (tiny_bundle.path / "golden.npz").unlink()
    code, out, err = run(capsys, str(tiny_bundle.path), "--format", fmt)
    assert code == 6
    assert "model.fp32.onnx" in err
    assert "and 1 more" in err
    assert "fix:" in err
    assert "the file is missing" in out
    assert "SHA-256 is" in out
    assert "Traceback" not in err


def test_a_damaged_manifest(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    path = tiny_bundle.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"tiny", b"tony", 1))
    code, out, err = run(capsys, str(tiny_bundle.path))
    assert (code, out) == (6, "")
    assert "manifest.json does not match its own digest" in err


def test_not_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, str(tmp_path / "none"))
    assert code == 2
    assert "fer-edge build" in err


def test_a_run_names_its_bundle(
    tiny_bundle: Bundle,
    no_pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys)
    assert code == 2
    assert "no pretrained bundle" in err
    assert "pip install" in err
    made = tmp_path / "runs" / "mine"
    made.mkdir(parents=True)
    (made / "run.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"")
    for arguments in ((), ("mine",), ("runs/mine",)):
        code, _, err = run(capsys, *arguments)
        assert code == 2
        assert "fer-edge build runs/mine" in err
    shutil.copytree(tiny_bundle.path, made / "bundle")
    code, _, err = run(capsys)
    assert (code, "name yours: runs/mine" in err) == (2, True)
    for arguments in (("mine",), ("runs/mine",), ("runs/mine/bundle",)):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        assert "runs/mine/bundle" in out


def test_trees_of_odd_parents(
    bundle_maker: Callable[..., Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = bundle_maker(int8=())
    with BundleWriter(bundle.path, bundle) as writer:
        # A parent that is not in the bundle, a parent listed later, and equal files.
        writer.add_bytes(b"a", "a.json", format="json", parent="f" * 64)
        writer.add_bytes(b"c", "c.json", format="json", parent=bundle.manifest.artifacts[0])
        late = writer.add_bytes(b"late", "late.json", format="json")
        writer.add_bytes(b"a2", "made.json", format="json", parent=late)
        writer.add_bytes(b"same", "x.json", format="json")
        writer.add_bytes(b"same", "twin.json", format="json", parent="x.json")
    code, out, _ = run(capsys, str(bundle.path))
    assert code == 0
    assert "from ffffffffffff, not in the bundle" in out
    assert "late.json" in out
    for artifact in Bundle.open(bundle.path).manifest.artifacts:
        assert out.count(f"{artifact.path} ") == 1
