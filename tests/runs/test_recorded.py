"""A run's weights are the ones that it wrote: every reader compares them with the run's record."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fixtures_training import Recorder, faces, new_run, tiny, weights_of

from fer_edge.build.pipeline import build
from fer_edge.cli import main
from fer_edge.data import FerDataset
from fer_edge.errors import FerEdgeError, IntegrityError, UsageError
from fer_edge.files import sha256_file, write_json
from fer_edge.models.recorded import read_weights, recorded_digests
from fer_edge.models.weights import load_weights
from fer_edge.runs.find import find
from fer_edge.runs.folder import RunFolder
from fer_edge.runs.recipe import Recipe, load_recipe
from fer_edge.training.loop import train
from fer_edge.training.session import Session
from fer_edge.training.soup import find_ingredients, make_soup
from fer_edge.training.start import InitialWeights, start_run
from fer_edge.training.teachers import find_teachers

__all__ = ["faces", "new_run", "tiny"]

TINY = ("model.options.widths=[8, 16]", "model.options.blocks=[1, 1]", "optim.batch_size=64")


@pytest.fixture(scope="module")
def trained(faces: FerDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs of one epoch in one folder: ``a``, and ``b``, which starts from ``a``."""
    root = tmp_path_factory.mktemp("runs")
    recipe = load_recipe("default", (*TINY, "epochs=1"))
    train(start_run(root, "a", recipe, faces, "synthetic:160"), recipe, faces)
    other = msgspec.structs.replace(recipe, seed=7)
    init = InitialWeights(root / "a" / "model.safetensors")
    train(start_run(root, "b", other, faces, "synthetic:160", init=init), other, faces)
    return root


@pytest.fixture
def root(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def _mutants(content: bytes, other: bytes) -> Iterator[bytes]:
    """Yield 90 changed files: flipped bytes of header and tensors, cut, longer, of another run."""
    random = np.random.default_rng(0)
    start = 8 + int.from_bytes(content[:8], "little")
    places = [*random.integers(0, start, 25), *random.integers(start, len(content), 35)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << int(random.integers(8))
        yield bytes(changed)
    for keep in [*random.integers(0, len(content), 20), 0, 8, start, len(content) - 1]:
        yield content[:keep]
    yield from (content + b"\0", content + content, b"\0" + content[1:], other)
    yield content[: len(content) // 2] + other[len(content) // 2 :]
    yield other[: len(content) // 2] + content[len(content) // 2 :]


def _others(root: Path) -> bytes:
    return (root / "b" / "model.safetensors").read_bytes()


def test_a_run_records_what_it_wrote(root: Path) -> None:
    run = RunFolder(root / "b")
    digests = run.info().weights
    assert set(digests) == {"model.safetensors", "best.safetensors"}
    for name, accepted in digests.items():
        assert accepted == (sha256_file(run.path / name),)
    assert recorded_digests(run.init) == (sha256_file(root / "a" / "model.safetensors"),)


def test_every_mutant_is_refused(root: Path) -> None:
    path = root / "a" / "model.safetensors"
    content, other = path.read_bytes(), _others(root)
    mutants = [mutant for mutant in _mutants(content, other) if mutant != content]
    assert len(mutants) == 90
    for mutant in mutants:
        path.write_bytes(mutant)
        with pytest.raises(IntegrityError, match="not the file that its run wrote") as raised:
            load_weights(path)
        assert "\n" not in str(raised.value)
        assert raised.value.fix
    path.write_bytes(content)
    assert load_weights(path).sha256 == sha256_file(path)


def _flip(path: Path) -> None:
    """Change one bit of the last tensor: no header and no size shows it."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def _build(root: Path, faces: FerDataset) -> None:
    build(root / "a", precision="fp32", data=faces)


def _soup(root: Path, faces: FerDataset) -> None:
    find_ingredients(["a", "b"], root, faces)


def _teach(root: Path, faces: FerDataset) -> None:
    find_teachers(["a"], root, faces)


def _teach_by_file(root: Path, faces: FerDataset) -> None:
    find_teachers([str(root / "a" / "model.safetensors")], root, faces)


def _init(root: Path, faces: FerDataset) -> None:
    init = InitialWeights(find("a", root).weights)
    start_run(root, "c", load_recipe("default", TINY), faces, "synthetic:160", init=init)


def _resume(root: Path, faces: FerDataset) -> None:
    run = RunFolder(root / "a")
    Session(run, run.recipe(), faces)


READERS = (_build, _soup, _teach, _teach_by_file, _init, _resume)


@pytest.mark.parametrize("read", READERS)
def test_every_reader_refuses_changed_weights(
    read: Callable[[Path, FerDataset], None], root: Path, faces: FerDataset
) -> None:
    _flip(root / "a" / "model.safetensors")
    before = sorted(path for path in root.rglob("*") if path.name != ".lock")
    with pytest.raises(IntegrityError, match="not the file that its run wrote"):
        read(root, faces)
    assert sorted(path for path in root.rglob("*") if path.name != ".lock") == before


@pytest.mark.parametrize(
    "words",
    [
        ("evaluate", "{run}", "--data", "synthetic:160"),
        ("build", "{run}", "--data", "synthetic:160"),
        ("explain", "{run}", "--data", "synthetic:160", "--class", "happy"),
        ("train", "--data", "synthetic:160", "--init", "{run}", "--name", "c", "--out", "{root}"),
        (
            "train",
            "--data",
            "synthetic:160",
            "--teacher",
            "{run}",
            "--name",
            "c",
            "--out",
            "{root}",
        ),
    ],
)
def test_every_command_refuses_changed_weights(
    words: tuple[str, ...], root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = root / "a"
    _flip(run / "model.safetensors")
    with pytest.raises(SystemExit) as raised:
        main([word.format(run=run, root=root) for word in words])
    assert raised.value.code == 6
    said = capsys.readouterr().err
    assert "not the file that its run wrote" in said
    assert "Traceback" not in said


def test_best_and_init_are_checked_too(root: Path, faces: FerDataset) -> None:
    for name in ("best.safetensors", "init.safetensors"):
        _flip(root / "b" / name)
        with pytest.raises(IntegrityError, match=name):
            load_weights(root / "b" / name)
    with pytest.raises(IntegrityError, match=r"best\.safetensors"):
        Session(RunFolder(root / "b"), RunFolder(root / "b").recipe(), faces)


def test_a_soup_records_its_weights(root: Path, faces: FerDataset) -> None:
    soup = make_soup(root, "s", find_ingredients(["a", "b"], root, faces), faces, "synthetic:160")
    assert recorded_digests(soup.model) == (sha256_file(soup.model),)
    _flip(soup.best)
    with pytest.raises(IntegrityError):
        load_weights(soup.best)


def test_a_run_can_be_copied_renamed_and_linked(root: Path) -> None:
    (root / "a").rename(root / "renamed")
    copied = Path(shutil.copytree(root / "renamed", root / "copied"))
    for run in (root / "renamed", copied):
        assert load_weights(run / "model.safetensors").sha256
    alone = Path(shutil.copy2(copied / "model.safetensors", root / "alone.safetensors"))
    assert recorded_digests(alone) == ()
    assert load_weights(alone).sha256
    (root / "link.safetensors").symlink_to(copied / "model.safetensors")
    _flip(copied / "model.safetensors")
    with pytest.raises(IntegrityError):
        load_weights(root / "link.safetensors")


def test_a_run_without_digests_is_read(root: Path, faces: FerDataset) -> None:
    run = RunFolder(root / "a")
    content = json.loads((run.path / "run.json").read_text())
    del content["weights"]
    write_json(run.path / "run.json", content)
    _flip(run.model)
    assert load_weights(run.model).sha256 == sha256_file(run.model)
    Session(run, run.recipe(), faces)
    assert "weights" not in json.loads((run.path / "run.json").read_text())


def test_weights_are_valid_whenever_the_writer_is_killed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stop before each rename: afterwards the run is readable, with old or new weights."""
    run = RunFolder(root / "a")
    old, new = run.model.read_bytes(), _others(root)
    replace, left = Path.replace, 0

    def stop(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    seen = set()
    for steps in range(4):
        left = steps
        # Record, two files, record: four renames.
        with pytest.raises(KeyboardInterrupt):
            run.write_weights({"model.safetensors": new, "best.safetensors": new})
        for path in (run.model, run.best):
            assert read_weights(path)[0] in {old, new}
        seen.add((run.model.read_bytes() == new, run.best.read_bytes() == new))
    assert seen == {(False, False), (True, False), (True, True)}
    left = 4
    run.write_weights({"model.safetensors": new, "best.safetensors": new})
    run.model.write_bytes(old)
    with pytest.raises(IntegrityError):  # the old weights count no more
        read_weights(run.model)


def test_a_resumed_run_records_its_later_weights(
    faces: FerDataset, tiny: Callable[..., Recipe], new_run: Callable[..., RunFolder]
) -> None:
    class Stop(Recorder):
        def epoch(self, row: dict[str, object]) -> None:
            raise KeyboardInterrupt

    recipe = tiny()
    run = new_run(recipe)
    with pytest.raises(KeyboardInterrupt):
        train(run, recipe, faces, reporter=Stop())
    first = recorded_digests(run.model)
    assert first == (sha256_file(run.model),)
    train(run, recipe, faces)
    assert recorded_digests(run.model) == (sha256_file(run.model),) != first
    assert weights_of(run)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large"])
def test_weights_that_are_no_file_are_refused(kind: str, root: Path) -> None:
    path = root / "a" / "model.safetensors"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with open(path, "wb") as file:
            file.truncate(1 << 42)
    with pytest.raises(FerEdgeError, match=r"cannot be read|not a readable") as raised:
        load_weights(path)
    assert isinstance(raised.value, UsageError | IntegrityError)
