"""examples/own-network as an installed package: listed, trained, built, used; then taken away."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from fixtures_examples import EXAMPLES
from fixtures_plugins import Install

from fer_edge.bundle import Bundle
from fer_edge.cli import main
from fer_edge.files import read_toml
from fer_edge.models import ModelSpec, model_entry
from fer_edge.models.profile import count_spec
from fer_edge.runs.recipe import load_recipe

SOURCE = EXAMPLES / "own-network" / "own_network"


@pytest.fixture
def own_network(install: Install) -> None:
    """Install the example as pip would: its files, and the entry points of its pyproject.toml."""
    project = read_toml(EXAMPLES / "own-network" / "pyproject.toml")["project"]
    files = {
        path.relative_to(SOURCE).as_posix(): path.read_text(encoding="utf-8")
        for path in SOURCE.rglob("*.*")
        if path.suffix in {".py", ".toml"} and path.name != "__init__.py"
    }
    groups = {
        group.removeprefix("fer_edge."): "\n".join(f"{a} = {b}" for a, b in points.items())
        for group, points in project["entry-points"].items()
    }
    install(project["name"], (SOURCE / "__init__.py").read_text(encoding="utf-8"), files, **groups)


@pytest.mark.usefixtures("own_network")
def test_its_figures_are_those_of_the_network() -> None:
    entry = model_entry("own-net")
    assert (entry.parameters, entry.macs) == count_spec(ModelSpec("own-net"))
    assert load_recipe("own-recipe").model.name == "own-net"


@pytest.mark.usefixtures("own_network")
def test_it_is_trained_built_and_used_and_missed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    crops: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FER_EDGE_DATA", "synthetic:640")
    main(["train", "--recipe", "own-recipe", "--epochs", "1", "--name", "own"])
    main(["build", "own", "--precision", "fp32"])
    manifest = Bundle.open("runs/own/bundle").manifest
    assert manifest.model.spec is not None
    assert manifest.model.spec["package"] == "own-network"
    assert manifest.model.name == "own-net"

    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(tmp_path / "site")])
    face = str(crops[0])
    capsys.readouterr()
    main(["predict", face, "--bundle", "own", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["label"] in manifest.labels
    with pytest.raises(SystemExit) as ended:
        main(["predict", face, "--bundle", "own", "--backend", "pytorch"])
    assert ended.value.code == 5
    assert capsys.readouterr().err.splitlines()[-2:] == [
        "error: the model 'own-net' is a plug-in of the package own-network, which is not "
        "installed",
        "fix:   pip install own-network",
    ]
