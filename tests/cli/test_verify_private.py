"""The final test: ``fer-edge verify --split private`` on a download with PrivateTest."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_edge.backends import backend_from_bundle
from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.data import load
from fer_edge.emotions import EMOTIONS

PER_CLASS = {"Training": 2, "PublicTest": 3, "PrivateTest": 4}


def pictures(usage: str) -> list[tuple[int, np.ndarray]]:
    """Label and smooth random pixels of each row of a split."""
    random = np.random.default_rng(len(usage))
    rows = [label for label in range(7) for _ in range(PER_CLASS[usage])]
    return [
        (label, np.kron(random.uniform(0, 255, (6, 6)), np.ones((8, 8))).astype(np.uint8))
        for label in rows
    ]


def kaggle_zip(path: Path, *usages: str) -> Path:
    """Kaggle's layout: both halves of the test set are in test/, with different file names."""
    with zipfile.ZipFile(path, "w") as archive:
        for usage in usages:
            folder = "train" if usage == "Training" else "test"
            for i, (label, image) in enumerate(pictures(usage)):
                content = io.BytesIO()
                Image.fromarray(image).save(content, "JPEG", quality=95)
                name = f"{folder}/{EMOTIONS[label]}/{usage}_{i}.jpg"
                archive.writestr(name, content.getvalue())
    return path


def csv_file(path: Path, header: str, *usages: str) -> Path:
    lines = [header]
    for usage in usages:
        for label, image in pictures(usage):
            lines.append(f'{label},"{" ".join(map(str, image.ravel().tolist()))}",{usage}')
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def shipped(torch_bundle: Path, no_pretrained: Path) -> Bundle:
    """A network with a checkpoint is the pretrained one."""
    return Bundle.open(shutil.copytree(torch_bundle, no_pretrained / "compact"))


def verified(capsys: pytest.CaptureFixture[str], data: Path, *words: str) -> tuple[dict, str]:
    main(["verify", *words, "--data", str(data), "--split", "private", "--format", "json"])
    captured = capsys.readouterr()
    content: dict = json.loads(captured.out)
    return content, captured.err


@pytest.mark.parametrize("named", [True, False], ids=["bundle named", "pretrained"])
@pytest.mark.parametrize(
    "form",
    ["zip", "zip without TRAIN", "csv", "icml csv", "csv of PrivateTest alone"],
)
def test_all_private_rows_are_scored(
    shipped: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, named: bool
) -> None:
    everything = ("Training", "PublicTest", "PrivateTest")
    data = {
        "zip": lambda: kaggle_zip(tmp_path / "fer2013.zip", *everything),
        "zip without TRAIN": lambda: kaggle_zip(tmp_path / "test.zip", *everything[1:]),
        "csv": lambda: csv_file(tmp_path / "fer2013.csv", "emotion,pixels,Usage", *everything),
        "icml csv": lambda: csv_file(
            tmp_path / "icml_face_data.csv", "emotion, pixels, Usage", *everything
        ),
        "csv of PrivateTest alone": lambda: csv_file(
            tmp_path / "private.csv", "emotion,pixels,Usage", "PrivateTest"
        ),
    }[form]()
    words = [str(shipped.path)] if named else []
    content, err = verified(capsys, data, *words, "--precision", "int8")
    assert (content["split"], content["n"]) == ("private", 28)
    assert content["reference"]["kind"] == "pytorch"
    private = load(data).select("private")
    with backend_from_bundle(shipped, "onnxruntime", "int8") as backend:
        right = backend.infer(private.images[:, None]).argmax(1) == private.labels
    assert content["engine"]["top1"] == pytest.approx(right.mean())
    assert {score["n"] for score in content["engine"]["per_class"].values()} == {4}
    assert 0 <= content["engine"]["macro_f1"] <= 1
    if "TRAIN" in form or "alone" in form:
        assert content["engine"]["top1_without_duplicates"] is None
        assert "has no TRAIN: duplicates of TRAIN are unknown" in err
    else:
        assert content["engine"]["n_without_duplicates"] == 28
    assert ("the pretrained one" in err) is not named
    assert Bundle.open(shipped.path).find(path="verify.json") is None


def test_the_table_has_every_score(
    shipped: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = kaggle_zip(tmp_path / "fer2013.zip", "Training", "PublicTest", "PrivateTest")
    main(["verify", "--data", str(data), "--split", "private"])
    text = " ".join(capsys.readouterr().out.split())
    for said in ("private, n = 28", "top-1", "macro-F1", "recall disgust (n 4)", "flips", "int8"):
        assert said in text, said


def test_a_copy_without_private_says_so(
    shipped: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = kaggle_zip(tmp_path / "fer2013.zip", "Training", "PublicTest")
    with pytest.raises(SystemExit) as stop:
        main(["verify", "--data", str(data), "--split", "private"])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert "has no images of the split private" in err
    assert "fix:" in err
