"""`--tensorrt`: how plans run, for every command that takes a backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fer_edge import cli
from fer_edge.bundle import Bundle
from fer_edge.cli.shared.options import tensorrt_option
from fer_edge.errors import UnavailableError
from fer_edge.trt.lane import LANE_VARIABLE, LaneOptions


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}".strip())


def test_every_command_with_a_backend_has_it() -> None:
    options = {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in commands(cli.group)  # type: ignore[arg-type]
    }
    with_backend = {name for name, found in options.items() if "--backend" in found}
    assert with_backend >= {"predict", "camera", "serve", "verify", "bench", "evaluate"}
    assert {name for name, found in options.items() if "--tensorrt" in found} == with_backend


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code in {2, 5}
    return capsys.readouterr().err


def test_the_backend_gets_it_and_nothing_stays(
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[LaneOptions] = []

    def opened(*_: Any, **__: Any) -> Any:
        seen.append(LaneOptions.from_environment())
        raise UnavailableError("no GPU in this test")

    monkeypatch.setattr("fer_edge.classifier.backend_from_bundle", opened)
    image = tmp_path / "x.pgm"
    image.write_bytes(b"P5 48 48 255\n" + bytes(48 * 48))
    words = ["predict", str(image), "--bundle", str(tiny_bundle.path), "--backend", "tensorrt"]
    for before in ("graphs=no", None):
        if before is None:
            monkeypatch.delenv(LANE_VARIABLE)
        else:
            monkeypatch.setenv(LANE_VARIABLE, before)
        said = error_of([*words, "--tensorrt", "wait=block,memory=mapped"], capsys)
        assert "no GPU in this test" in said
        # The option is stronger than the variable, and is gone afterwards.
        assert seen[-1] == LaneOptions(wait="block", mapped=True)
        assert os.environ.get(LANE_VARIABLE) == before
    error_of(words, capsys)
    assert seen[-1] == LaneOptions()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--backend", "tensorrt", "--tensorrt", "wait=long"], "--tensorrt has 'wait=long'"),
        (["--tensorrt", "wait=spin"], "--tensorrt is for the backends of TensorRT, not for onnx"),
    ],
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in error_of(["predict", "x.png", *words], capsys)


def test_several_backends_need_one_that_runs_plans() -> None:
    @click.command()
    @click.option("--backend", "backends", multiple=True)
    @tensorrt_option
    def command(backends: tuple[str, ...]) -> None:
        click.echo(os.environ.get(LANE_VARIABLE))

    def run(*words: str) -> Any:
        return CliRunner().invoke(command, [*words, "--tensorrt", "wait=spin"])

    assert run().output == "wait=spin\n"  # all backends
    assert run("--backend", "onnxruntime", "--backend", "tensorrt-rtx").output == "wait=spin\n"
    failed = run("--backend", "onnxruntime", "--backend", "openvino")
    assert "not for onnxruntime and openvino" in str(failed.exception)
