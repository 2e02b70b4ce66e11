"""The C++ runner's readers under the sanitizers, with mutated files: none may crash."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fixtures_forged import MORE, controls, forged_json, signed
from fuzz_cpp import ROOT, TARGETS, build_targets, run_target, write_seeds
from test_files import odd_files

from fer_edge.bundle import Bundle

if TYPE_CHECKING:
    from conftest import Runner


@pytest.fixture(scope="module")
def targets() -> Path:
    for tool in ("cmake", "g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"the fuzz targets cannot be built: {tool} is not installed")
    # Unoptimised: it compiles in less than half the time, and a few thousand inputs are quick.
    folder = build_targets(ROOT / "build" / "fuzz-cpp-tests", optimise="-O0")
    write_seeds(folder / "seeds")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_crashes_a_reader(name: str, targets: Path) -> None:
    # A manifest is large and is read slowly without optimisation; `make fuzz-cpp` tries more.
    runs = (150 if name == "manifest" else 2000) * MORE
    result = run_target(targets, name, f"-runs={runs}", "-max_total_time=600")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["manifest.json", "golden.npz"])
@pytest.mark.parametrize("kind", ["pipe", "socket", "device", "loop", "dangling", "sparse"])
def test_only_regular_files_of_a_bundle_are_read(
    runner: Runner, tiny_bundle: Bundle, tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / "odd").mkdir()
    path = tiny_bundle.path / name
    with odd_files(tmp_path / "odd") as odd:
        path.unlink()
        if kind in {"pipe", "sparse"}:
            odd[kind].rename(path)
        else:
            path.symlink_to(path if kind == "loop" else odd[kind])
        result = runner(tiny_bundle.path, "--precision", "fp32")
    assert result.returncode in {2, 6}, result.stderr
    assert result.stderr.startswith("error: ")


def test_a_manifest_that_is_a_link_out_of_the_bundle_is_refused(
    runner: Runner, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    path = tiny_bundle.path / "manifest.json"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    result = runner(tiny_bundle.path, "--choose")
    assert result.returncode == 6
    assert "a link to a place outside the bundle" in result.stderr


def test_a_forged_manifest_is_refused_or_harmless(runner: Runner, tiny_bundle: Bundle) -> None:
    path = tiny_bundle.path / "manifest.json"
    content = json.loads(path.read_text())
    del content["manifest_sha256"]
    path.write_bytes(signed(content))
    whole = runner(tiny_bundle.path, "--choose").stdout
    assert whole
    for what, forged in forged_json(content, 100, seed=2):
        path.write_bytes(signed(forged))
        result = runner(tiny_bundle.path, "--choose")
        assert result.returncode in {0, 2, 5, 6}, f"{what}: {result.stderr}"
        assert not controls(result.stdout + result.stderr), what
        assert result.stderr.count("\n") <= 2, f"{what}: {result.stderr}"
