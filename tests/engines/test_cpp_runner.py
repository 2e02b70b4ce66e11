"""The C++ runner against Python's Classifier on the same graphs, and its errors."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fixtures_bundle import BundleMaker, TinyNet, bundle_of_classes, golden_bytes, golden_images

from fer_edge import __version__
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.bundle.manifest import _canonical
from fer_edge.classifier import Classifier
from fer_edge.emotions import EMOTIONS
from fer_edge.files import sha256_bytes
from fer_edge.records import to_dict

if TYPE_CHECKING:
    from conftest import Runner


def write_pgm(path: Path, image: np.ndarray, comment: str = "") -> Path:
    path.write_bytes(f"P5\n{comment}48 48\n255\n".encode() + image.tobytes())
    return path


@pytest.fixture
def faces(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder of 20 images, PGM and raw by turns, and the images in the folder's order."""
    folder = tmp_path / "faces"
    folder.mkdir()
    images = golden_images(20, seed=7)[:, 0]
    for i, image in enumerate(images):
        if i % 2:
            (folder / f"face{i:02}.raw").write_bytes(image.tobytes())
        else:
            write_pgm(folder / f"face{i:02}.pgm", image, "# a comment\n" if i % 4 else "")
    (folder / "notes.txt").write_text("not an image: passed over")
    return folder, images


def lines_of(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


@pytest.mark.parametrize(("uint8", "precision"), [(True, "fp32"), (False, "fp32"), (True, "int8")])
def test_it_says_what_python_says(
    runner: Runner,
    bundle_maker: BundleMaker,
    faces: tuple[Path, np.ndarray],
    uint8: bool,
    precision: str,
) -> None:
    bundle = bundle_maker(uint8=uint8)
    folder, images = faces
    result = runner("--backend", "openvino", "--precision", precision, bundle.path, folder)
    assert result.returncode == 0, result.stderr
    *lines, summary = lines_of(result.stdout)
    with Classifier(bundle, backend="openvino", precision=precision) as classify:
        expected = [classify.predict(image) for image in images]
        provider = classify.provider
    assert [Path(line["file"]).name for line in lines] == sorted(
        path.name for path in folder.iterdir() if path.suffix != ".txt"
    )
    assert [line["label"] for line in lines] == [one.label for one in expected]
    ours = np.array([list(line["probabilities"].values()) for line in lines])
    theirs = np.array([list(one.probabilities.values()) for one in expected])
    assert np.abs(ours - theirs).max() <= 1e-4
    assert all(list(line["probabilities"]) == list(EMOTIONS) for line in lines)
    assert all(line["confidence"] == max(line["probabilities"].values()) for line in lines)
    assert all(line["latency_ms"] > 0 for line in lines)
    assert summary["provider"] == provider
    assert summary["precision"] == precision
    assert summary["self_test"]["images"] == 16


def test_percentiles_need_samples(
    runner: Runner, tiny_bundle: Bundle, faces: tuple[Path, np.ndarray]
) -> None:
    few = lines_of(runner(tiny_bundle.path, faces[0]).stdout)[-1]
    assert few["n"] == 20
    assert few["p50_ms"] > 0
    assert few["p90_ms"] is None
    assert few["p99_ms"] is None
    result = runner(tiny_bundle.path, faces[0], "--repeat", "34")
    many = lines_of(result.stdout)[-1]
    assert len(lines_of(result.stdout)) == 21, "each image is printed once"
    assert many["n"] == 680
    assert many["p50_ms"] <= many["p90_ms"] <= many["p99_ms"]


def test_the_default_is_the_best_precision_that_passed_its_gate(
    runner: Runner, bundle_maker: BundleMaker
) -> None:
    bundle = bundle_maker()
    assert lines_of(runner(bundle.path).stdout)[0]["model"] == "model.int8.openvino.onnx"
    with BundleWriter(bundle.path, base=bundle) as writer:
        writer.add_gate({"precision": "int8", "target": "openvino", "passed": False})
    assert lines_of(runner(bundle.path).stdout)[0]["model"] == "model.fp32.onnx"
    asked = runner(bundle.path, "--precision", "int8")
    assert lines_of(asked.stdout)[0]["model"] == "model.int8.openvino.onnx"


def test_version_and_help(runner: Runner) -> None:
    version = runner("--version").stdout
    assert version.startswith(f"fer-edge-run {__version__}\n")
    assert "openvino 20" in version
    assert "usage: fer-edge-run" in runner("--help").stdout


def test_the_old_name_of_an_option_works_and_says_so(runner: Runner, tiny_bundle: Bundle) -> None:
    result = runner("--engine", "openvino", "--precision", "int8", "--choose", tiny_bundle.path)
    assert lines_of(result.stdout) == [
        {"backend": "openvino", "precision": "int8", "model": "model.int8.openvino.onnx"}
    ]
    assert result.stderr == "note: --engine is deprecated: use --backend\n"


@pytest.mark.parametrize("name", ["model.fp32.onnx", "golden.npz", "manifest.json"])
@pytest.mark.parametrize("where", [0.1, 0.5, 0.99])
def test_one_flipped_byte_is_refused(
    runner: Runner, tiny_bundle: Bundle, name: str, where: float
) -> None:
    path = tiny_bundle.path / name
    content = bytearray(path.read_bytes())
    content[int(len(content) * where)] ^= 1
    path.write_bytes(content)
    result = runner(tiny_bundle.path, "--precision", "fp32")
    assert result.returncode == 6
    assert name in result.stderr
    assert result.stdout == ""


def test_a_missing_or_longer_file_is_refused(runner: Runner, tiny_bundle: Bundle) -> None:
    golden = tiny_bundle.path / "golden.npz"
    golden.write_bytes(golden.read_bytes() + b"\0")
    assert "bytes; in the manifest it has" in runner(tiny_bundle.path).stderr
    golden.unlink()
    result = runner(tiny_bundle.path)
    assert result.returncode == 6
    assert "missing" in result.stderr


def _with_fields(bundle: Bundle, **fields: Any) -> None:
    """Change the manifest and give it a right digest again, as a hostile sender could."""
    path = bundle.path / "manifest.json"
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    content.update(fields)
    digest = sha256_bytes(_canonical(content))
    path.write_bytes(_canonical({**content, "manifest_sha256": digest}))


@pytest.mark.parametrize("path", ["../x.onnx", "/etc/passwd", "a/../../x", "", "a\\b", "./x", "a/"])
def test_a_path_that_leaves_the_bundle_is_refused(
    runner: Runner, tiny_bundle: Bundle, path: str
) -> None:
    artifacts = [to_dict(artifact) for artifact in tiny_bundle.manifest.artifacts]
    artifacts[1]["path"] = path
    _with_fields(tiny_bundle, artifacts=artifacts)
    result = runner(tiny_bundle.path)
    assert result.returncode == 6
    assert "leaves the bundle" in result.stderr


def test_a_link_out_of_the_bundle_is_refused(
    runner: Runner, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    graph = tiny_bundle.path / "model.fp32.onnx"
    graph.rename(tmp_path / "elsewhere.onnx")
    graph.symlink_to(tmp_path / "elsewhere.onnx")
    result = runner(tiny_bundle.path, "--precision", "fp32")
    assert result.returncode == 6
    assert "link" in result.stderr


@pytest.mark.parametrize(
    ("fields", "code", "words"),
    [
        ({"schema": 2}, 2, "schema 2"),
        ({"labels": list(reversed(EMOTIONS))}, 6, "labels"),
        ({"preprocessing": {"mean": 0.5, "std": 0}}, 6, "std"),
        ({"artifacts": 7}, 6, "manifest.json"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    runner: Runner, tiny_bundle: Bundle, fields: dict[str, Any], code: int, words: str
) -> None:
    _with_fields(tiny_bundle, **fields)
    result = runner(tiny_bundle.path)
    assert result.returncode == code
    assert words in result.stderr


def test_another_network_fails_the_self_test(runner: Runner, tiny_bundle: Bundle) -> None:
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        writer.add_bytes(golden_bytes(TinyNet(seed=9)), "golden.npz", format="npz")
    for precision in ("fp32", "int8"):
        result = runner(tiny_bundle.path, "--precision", precision)
        assert result.returncode == 4
        assert "fails the self-test on 16 golden images" in result.stderr
        assert "fix:" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.pgm", b"P2\n48 48\n255\n" + b"0 " * 2304, "text PGM"),
        ("a.pgm", b"\x89PNG\r\n", "not a binary PGM"),
        ("a.pgm", b"P5\n47 48\n255\n" + bytes(47 * 48), "47x48, not 48x48"),
        ("a.pgm", b"P5\n640 480\n255\n" + bytes(640 * 480), "640x480, not 48x48"),
        ("a.pgm", b"P5\n48 48\n65535\n" + bytes(4608), "maxval is 65535"),
        ("a.pgm", b"P5\n48 48\n255\n" + bytes(2303), "2303"),
        ("a.pgm", b"P5\n48 48\n255\n" + bytes(2305), "2305"),
        ("a.pgm", b"P5\n48 48\n", "no maxval"),
        ("a.pgm", b"P5 48 99999999999999 255 ", "invalid height"),
        ("a.pgm", b"", "not a binary PGM"),
        ("a.raw", bytes(2303), "2303"),
        ("a.raw", b"", "this one has 0"),
        ("a.jpg", b"\xff\xd8", "not a .pgm or .raw file"),
    ],
    # pytest passes a test's id to the processes that it starts, and a picture is too long for that.
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else value,
)
def test_an_image_that_cannot_be_used_is_named(
    runner: Runner, tiny_bundle: Bundle, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    result = runner(tiny_bundle.path, tmp_path / name)
    assert result.returncode == 2
    assert name in result.stderr
    assert words in result.stderr
    assert result.stdout == ""


def test_a_bad_image_in_a_folder_is_named_before_anything_is_printed(
    runner: Runner, tiny_bundle: Bundle, faces: tuple[Path, np.ndarray]
) -> None:
    (faces[0] / "face99.pgm").write_bytes(b"P5 1 1 255 0")
    result = runner(tiny_bundle.path, faces[0])
    assert result.returncode == 2
    assert "face99.pgm" in result.stderr
    assert result.stdout == ""


def test_a_name_that_is_not_utf8(runner: Runner, tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"f\xe9.pgm")
    write_pgm(path, golden_images(1)[0, 0])
    result = runner(tiny_bundle.path, path)
    assert result.returncode == 0
    assert lines_of(result.stdout)[0]["file"].endswith("f\ufffd.pgm")


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ([], 2, "BUNDLE is missing"),
        (["--frobnicate"], 2, "unknown option --frobnicate"),
        (["--threads"], 2, "needs a value"),
        (["--threads", "0", "x"], 2, "at least 1"),
        (["--repeat", "many", "x"], 2, "'many'"),
        (["--precision", "fp8", "x"], 2, "fp8"),
        (["/no/such/bundle"], 2, "is not a bundle"),
        (["{bundle}", "/no/such/face.pgm"], 2, "no such file"),
        (["{bundle}", "--backend", "frob"], 2, "unknown backend 'frob'"),
        (["{bundle}", "--backend", "litert"], 2, "it runs no .tflite file of a bundle"),
        (["{bundle}", "--precision", "fp16"], 2, "fp16"),
        (["{bundle}", "{bundle}"], 2, "no .pgm or .raw file"),
        (["{bundle}", "/dev/zero"], 2, "/dev/zero"),
    ],
)
def test_mistakes_are_one_line_with_a_code(
    runner: Runner, tiny_bundle: Bundle, args: list[str], code: int, words: str
) -> None:
    result = runner(*(word.format(bundle=tiny_bundle.path) for word in args))
    assert result.returncode == code
    assert words in result.stderr
    errors = [line for line in result.stderr.splitlines() if not line.startswith("fix:")]
    assert len(errors) == 1
    assert errors[0].startswith("error: ")


def test_an_unknown_backend_is_answered_with_the_known_ones(
    runner: Runner, tiny_bundle: Bundle
) -> None:
    for option in ("--backend", "--engine"):
        result = runner(tiny_bundle.path, option, "frob")
        assert result.returncode == 2
        assert result.stderr.splitlines() == [
            "error: unknown backend 'frob'",
            "fix:   choose from: tensorrt, openvino, tensorrt-dla",
        ]
        assert result.stdout == ""


def test_a_graph_that_is_no_network_of_ours_is_refused(
    runner: Runner, bundle_maker: BundleMaker, tiny_net: TinyNet
) -> None:
    bundle = bundle_maker(int8=())
    for content, code, words in [
        (tiny_net.onnx_bytes(size=64), 2, "not exported by fer-edge"),
        (b"not ONNX at all", 5, "OpenVINO"),
    ]:
        with BundleWriter(bundle.path, base=Bundle.open(bundle.path)) as writer:
            writer.add_bytes(content, "model.fp32.onnx", format="onnx", precision="fp32")
        result = runner(bundle.path)
        assert result.returncode == code, result.stderr
        assert words in result.stderr


@pytest.mark.parametrize(
    "labels", [("froh", "müde", "日本"), tuple(f"class {i}" for i in range(23)), ("no", "yes")]
)
def test_classes_of_ones_own(
    runner: Runner, tmp_path: Path, faces: tuple[Path, np.ndarray], labels: tuple[str, ...]
) -> None:
    bundle_of_classes(tmp_path / "own", labels)
    folder, images = faces
    result = runner("--backend", "openvino", tmp_path / "own", folder)
    assert result.returncode == 0, result.stderr
    *lines, summary = lines_of(result.stdout)
    with Classifier(tmp_path / "own", backend="openvino") as classify:
        expected = [classify.predict(image) for image in images]
    assert [line["label"] for line in lines] == [one.label for one in expected]
    assert all(tuple(line["probabilities"]) == labels for line in lines)
    ours = np.array([list(line["probabilities"].values()) for line in lines])
    assert np.abs(ours - [list(one.probabilities.values()) for one in expected]).max() <= 1e-4
    assert summary["self_test"]["images"] == 16


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"labels": ["one"] * 7}, "it has a label twice"),
        ({"labels": ["only"]}, "one logit for each label"),
        ({"labels": ["", *"bcdefg"]}, "label 0 is not a valid name"),
        ({"labels": ["\x1b[31m", *"bcdefg"]}, "label 0 is not a valid name"),
        ({"labels": [*"abcdefgh"]}, "one logit for each label"),
    ],
)
def test_labels_that_no_bundle_has(
    runner: Runner, tiny_bundle: Bundle, changed: dict[str, Any], reason: str
) -> None:
    path = tiny_bundle.path / "manifest.json"
    fields = {**json.loads(path.read_text()), **changed}
    fields["dataset"]["classes"] = fields["labels"]
    del fields["manifest_sha256"]
    fields["manifest_sha256"] = sha256_bytes(_canonical(fields))
    path.write_bytes(_canonical(fields))
    result = runner(tiny_bundle.path)
    assert result.returncode == 6
    assert reason in result.stderr
