"""examples/notebook runs from top to bottom, and is kept without outputs."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from fixtures_examples import EXAMPLES, long_one

NOTEBOOK = EXAMPLES / "notebook" / "train-build-look.ipynb"


def test_it_is_kept_without_outputs_and_shows_synthetic_faces_only() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(codes) >= 6
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in codes)
    source = "".join("".join(cell["source"]) for cell in codes)
    assert 'DATA = "synthetic:' in source
    assert "FER_EDGE_DATA" not in source


@long_one
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of Jupyter's packages
@pytest.mark.skipif(
    not all(map(find_spec, ("nbclient", "ipykernel"))),
    reason="no Jupyter: pip install nbclient ipykernel",
)
def test_it_trains_builds_and_looks(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook: Any = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()  # raises at the first cell that does
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    texts = "".join(str(output.get("text", output.get("data", {}))) for output in outputs)
    assert "Classifier(" in texts
    right = re.search(r"(\d+)% of [\d,]+ synthetic faces", texts)
    assert right
    assert int(right[1]) > 30  # one class of seven would be 14
    assert "model.fp16.onnx" in texts
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 3
