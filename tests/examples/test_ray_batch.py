"""examples/ray-batch on a local Ray of two workers: the answers of `fer-edge predict`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from fixtures_examples import EXAMPLES, long_one
from PIL import Image

from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.data import load

PICTURES, BAD = 200, 2


@long_one
@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("ray") is None, reason="ray is not installed: pip install 'ray[data]'"
)
def test_two_actors_answer_as_predict_does(
    tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, pixels in enumerate(load(f"synthetic:{PICTURES}").images[:PICTURES]):
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    for number in range(BAD):
        (folder / f"bad-{number}.png").write_bytes(b"not a picture")
    words = ["--pictures", folder, "--out", tmp_path / "out.jsonl", "--bundle", tiny_bundle.path]
    ended = subprocess.run(
        [sys.executable, str(EXAMPLES / "ray-batch" / "batch.py"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_DATA_DISABLE_PROGRESS_BARS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    shown = ended.stdout.splitlines()[-1]
    assert shown.startswith(f"{PICTURES + BAD} pictures, {BAD} not readable, 2 actors: ")
    assert shown.endswith(" images/s")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]

    with pytest.raises(SystemExit) as code:
        main(["predict", str(folder), "--bundle", str(tiny_bundle.path), "--format", "json"])
    assert code.value.code == 2  # two files cannot be read
    own = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(own) == PICTURES
    good = {row["image"]: row for row in rows if not row["problem"]}
    assert {row["image"]: row["label"] for row in own} == {n: r["label"] for n, r in good.items()}
    for row in own:
        assert good[row["image"]]["confidence"] == pytest.approx(row["confidence"], abs=1e-6)
    assert all("not an image" in row["problem"] for row in rows if row["problem"])
