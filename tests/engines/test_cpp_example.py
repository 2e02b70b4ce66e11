"""examples/embed-cpp: a program that links the library answers as Python does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from PIL import Image

from fer_edge import Bundle, Classifier
from fer_edge.data import load


@pytest.fixture
def program(runner: object) -> Path:
    build: Path = runner.build  # type: ignore[attr-defined]
    return build / "embed-cpp" / "embed-cpp"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, check=False)


def test_it_answers_as_python_does(program: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    faces = load("synthetic:70").images[:5]
    files = [tmp_path / f"{number}.pgm" for number in range(len(faces))]
    for file, face in zip(files, faces):
        Image.fromarray(face).save(file)
    ended = run(program, tiny_bundle.path, *files)
    assert ended.returncode == 0, ended.stderr
    rows = [line.split() for line in ended.stdout.splitlines()]
    with Classifier(tiny_bundle, backend="openvino") as classify:
        answers = classify.predict_batch(faces)
    assert [(Path(name), label) for name, label, _ in rows] == [
        (file, answer.label) for file, answer in zip(files, answers)
    ]
    for (_, _, confidence), answer in zip(rows, answers):
        assert float(confidence) == pytest.approx(answer.confidence, abs=1e-4)


def test_its_errors_are_one_line_and_a_fix(
    program: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    assert run(program).returncode == 2
    (tmp_path / "face.pgm").write_bytes(b"P5 47 48 255\n")
    ended = run(program, tiny_bundle.path, tmp_path / "face.pgm")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[1].startswith("error: ")
    manifest = tiny_bundle.path / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"tiny", b"tinx", 1))
    ended = run(program, tiny_bundle.path, tmp_path / "face.pgm")
    assert ended.returncode == 6
    assert ended.stderr.startswith("error: ")
