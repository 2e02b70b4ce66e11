"""``fer-edge ... | head -n 1``: one rule for all commands, in fer_edge/pipes.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fixtures_film import frames_of_film, write_film
from PIL import Image

from fer_edge.bundle import Bundle

TESTS = Path(__file__).parents[1]

SCRIPT = """
import json, os, sys, traceback
import click
from fer_edge import cli
# Once, and not in each child.
import cv2, fer_edge.analyzer, fer_edge.classifier, fer_edge.cli.predict, fer_edge.data
import fer_edge.cli.camera, fer_edge.cli.inspect, fer_edge.report.card, fer_edge.video.run
from fer_edge.errors import GateError
from fer_edge.faces import detect

detect.DETECTORS["scripted"] = detect.DetectorRow("fixtures_film:ScriptedDetector", (), "")


@click.command()
def gate():
    from fer_edge.cli.shared.output import note, print_rows, print_text
    print_text("x" * 100_000)
    print_rows([{"a": 1}], "table")
    note("a note")
    raise GateError("it failed")


@click.command()
def other():
    raise BrokenPipeError(32, "Broken pipe")  # that of a worker, not of stdout


real = cli.group.get_command
own = {"gate": gate, "other": other}
cli.group.get_command = lambda context, name: own.get(name) or real(context, name)
cli.COMMANDS.update({name: ("", "") for name in own})
for words, broken in json.loads(sys.argv[1]):
    pid = os.fork()
    if not pid:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer if 1 in broken else os.open(os.devnull, os.O_WRONLY), 1)
        error = os.open("stderr.txt", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(writer if 2 in broken else error, 2)
        os.close(writer)
        code = 0
        try:
            cli.main(words)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        try:
            sys.stdout.flush()  # as the interpreter does at its end, which gives code 120
        except OSError:
            code = 120
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open("stderr.txt") as file:
        # Flushed, or the next child inherits the text and writes it to its closed pipe.
        print(json.dumps([code, "" if 2 in broken else file.read()]), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it forks")
def test_a_reader_that_has_ended(tiny_bundle: Bundle, tiny_net: object, tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.fromarray(np.zeros((48, 48), np.uint8)).save(tmp_path / f"{name}.png")
    film = write_film(tmp_path / "two.avi", frames_of_film(tiny_net)[:20])
    bundle = ["--bundle", str(tiny_bundle.path)]
    faces = ["predict", str(tmp_path), "--no-detect", *bundle]
    camera = ["camera", str(film), *bundle, "--detector", "scripted", "--format", "json"]
    lines = [
        ["--help"],
        ["--version"],
        ["models"],
        ["data", "info", "synthetic:140"],
        ["inspect", str(tiny_bundle.path)],
        ["inspect", str(tiny_bundle.path), "--card"],
        ["train", "--list-recipes"],
        ["completion", "bash"],
        faces,
        [*faces, "--format", "json"],
        [*faces, "--format", "csv"],
        camera,
    ]
    expected = {json.dumps(words): 0 for words in lines}
    # What a command found out is its exit code, whoever reads its table.
    for words, code in ((["gate"], 3), (["inspect", "nothing"], 2)):
        lines.append(words)
        expected[json.dumps(words)] = code
    asked = [(words, [1]) for words in lines]
    asked += [(words, [1, 2]) for words in (["models"], [*faces, "--format", "csv"], ["gate"])]
    asked.append((["other"], []))
    expected['["other"]'] = 2
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(asked)],
        cwd=tmp_path,
        env={**_environment(), "PYTHONPATH": f"{TESTS}:{TESTS / 'fixtures'}:{_root()}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(asked)
    for (words, broken), (code, said) in zip(asked, answers, strict=True):
        assert code == expected[json.dumps(words)], (words, broken, said)
        assert "Traceback" not in said, words
        assert "Broken pipe" not in said or words == ["other"], words


def _root() -> Path:
    return Path(__file__).parents[2]


def _environment() -> dict[str, str]:
    import os

    return {k: v for k, v in os.environ.items() if k not in {"DISPLAY", "WAYLAND_DISPLAY"}}
