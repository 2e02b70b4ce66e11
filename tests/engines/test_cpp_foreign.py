"""A bundle from someone else's graph gives the same answers in Python and in C++."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from fixtures_bundle import golden_images
from fixtures_foreign import ALPHABETICAL
from PIL import Image

from fer_edge.bundle import Bundle
from fer_edge.classifier import Classifier
from fer_edge.convert.foreign import logits_of
from fer_edge.emotions import EMOTIONS

if TYPE_CHECKING:
    from conftest import Runner


def test_every_runtime_says_what_the_graph_says(
    runner: Runner, foreign_bundle: Bundle, tmp_path: Path
) -> None:
    images = golden_images(12, seed=3)[:, 0]
    with Classifier(foreign_bundle, backend="onnxruntime", precision="fp32") as classify:
        expected = classify.predict_batch(list(images))
    assert len({one.label for one in expected}) > 1
    found = {}
    with Classifier(foreign_bundle, backend="openvino", precision="fp32") as classify:
        found["openvino"] = [
            list(one.probabilities.values()) for one in classify.predict_batch(list(images))
        ]
    for number, image in enumerate(images):
        (tmp_path / f"{number:02}.raw").write_bytes(image.tobytes())
    result = runner("--backend", "openvino", "--precision", "fp32", foreign_bundle.path, tmp_path)
    assert result.returncode == 0, result.stderr
    *lines, summary = map(json.loads, result.stdout.splitlines())
    assert summary["self_test"]["images"] == 32
    assert [line["label"] for line in lines] == [one.label for one in expected]
    found["C++"] = [list(line["probabilities"].values()) for line in lines]
    wanted = np.array([list(one.probabilities.values()) for one in expected])
    for name, probabilities in found.items():
        assert np.abs(np.array(probabilities) - wanted).max() <= 1e-4, name
    # Their graph itself, on what it was made for: 64x64, RGB, from 0 to 1, pixels last.
    large = [Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR) for image in images]
    photos = np.stack([np.asarray(each, np.float32) / 255 for each in large])
    graph = foreign_bundle.path.parent / "theirs.onnx"
    theirs = logits_of(graph.read_bytes(), np.repeat(photos[..., None], 3, axis=3), graph)
    order = [ALPHABETICAL.index(name) for name in EMOTIONS]
    # Pillow rounds to whole gray values: an answer near the border of two classes may differ.
    assert np.abs(theirs[:, order] - wanted).max() < 0.25
    assert (theirs[:, order].argmax(axis=1) == wanted.argmax(axis=1)).mean() > 0.7
