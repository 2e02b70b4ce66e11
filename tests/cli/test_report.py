"""`fer-edge report` and `bench --html`: what is written, from what, and what is refused."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from fixtures_measure import small_faces
from fixtures_report import Html, made_result
from PIL import Image

from fer_edge import cli
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.cli import bench as bench_command
from fer_edge.data.readers_npz import npz_from_dataset
from fer_edge.files import sha256_bytes
from fer_edge.measure.latency import LatencyProtocol
from fer_edge.measure.record import BENCH_FILE, VERIFY_FILE
from fer_edge.report.page import plots

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

SHORT = LatencyProtocol(
    warmup_s=0, warmup_queries=2, measure_s=0, min_queries=70, repeats=2, quick=True
)


@pytest.fixture
def no_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawings take most of the time, and tests/report tests them; the first test has them."""
    monkeypatch.setattr(plots, "_both", lambda *args: plots.Drawings("", ""))


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "small.npz"
    npz_from_dataset(small_faces(), path)
    return str(path)


@pytest.fixture
def other_bundle(torch_bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle whose INT8 graph gives other answers than its FP32 graph."""
    from onnx import load_from_string, numpy_helper

    base = Bundle.open(torch_bundle)
    graph = load_from_string(base.read(base.artifact(path="model.fp32.onnx")))
    changed = graph.graph.initializer
    for place, tensor in enumerate(changed):
        values = numpy_helper.to_array(tensor)
        if values.ndim == 2:
            noise = np.random.default_rng(1).normal(0, 0.6, values.shape).astype(values.dtype)
            changed[place].CopyFrom(numpy_helper.from_array(values + noise, tensor.name))
    with BundleWriter(tmp_path / "other", base=base) as writer:
        writer.add_bytes(
            graph.SerializeToString(),
            "model.int8.onnxruntime.onnx",
            format="onnx",
            precision="int8",
            target="onnxruntime",
        )
    return Bundle.open(tmp_path / "other")


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    try:
        cli.main([str(word) for word in words])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, err


def errors(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith(("error:", "fix:"))]


def pictures(text: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in found]


def test_a_report_of_what_the_bundle_records(
    capsys: pytest.CaptureFixture[str], own_bundle: Bundle, source: str, tmp_path: Path
) -> None:
    """verify.json is enough: nothing is run, and no data set is opened."""
    run(capsys, "verify", own_bundle.path, "--data", source, "--precision", "int8")
    bundle = Bundle.open(own_bundle.path)
    recorded = json.loads(bundle.read(bundle.artifact(path=VERIFY_FILE)))["verifications"][0]
    path = tmp_path / "r.html"
    code, out, err = run(capsys, "report", bundle.path, "-o", path, "--runs", tmp_path)
    assert code == 0, err
    assert str(path) in err
    text = path.read_text(encoding="utf-8")
    html = Html(text)
    assert html.root.all("h1")[0].text == out.strip()
    assert out.startswith("INT8 keeps the top-1 accuracy")
    shown = html.root.text
    assert f"{100 * recorded['engine']['top1']:.2f} %" in shown
    assert f"{recorded['flips']} answers differ" in shown
    # The gate says which limits it compared with.
    limit = next(c["limit"] for c in recorded["gate"]["checks"] if c["name"] == "top1")
    verdict = "passed" if recorded["passed"] else "FAILED"
    assert f"INT8 for onnxruntime: {verdict}." in shown
    assert f"at most {100 * limit:.2f} points of top-1 lost" in shown
    for artifact in bundle.manifest.artifacts:
        assert artifact.sha256 in shown
    assert bundle.manifest.sha256 in shown
    assert recorded["environment"]["machine"]["arch"] in shown
    assert "Answers by their confidence" in shown  # this version records the bins
    assert not pictures(text)


@pytest.mark.usefixtures("no_drawings")
def test_data_adds_the_changed_answers_but_no_pixel(
    capsys: pytest.CaptureFixture[str], other_bundle: Bundle, source: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.html"
    code, _, err = run(capsys, "report", other_bundle.path, "--data", source, "-o", path)
    assert code == 0, err
    text = path.read_text(encoding="utf-8")
    html = Html(text)
    flips = int(re.findall(r"(\d+) answers differ", html.root.text)[0])
    assert flips > 0
    (table,) = [one for one in html.root.all("table") if "whose answer differs" in one.text]
    assert len(table.rows()) == 1 + flips
    assert {cells[0] for cells in table.rows()[1:]} <= {f"{i:05}" for i in range(21, 63)}
    assert not pictures(text)
    assert "publish" not in text


@pytest.mark.usefixtures("no_drawings")
def test_faces_are_shown_only_when_asked_and_with_a_warning(
    capsys: pytest.CaptureFixture[str], other_bundle: Bundle, source: str, tmp_path: Path
) -> None:
    path = tmp_path / "r.html"
    words = ("report", other_bundle.path, "--data", source, "--with-faces", "-o", path)
    code, _, err = run(capsys, *words)
    assert code == 0, err
    assert "do not publish it" in err
    text = path.read_text(encoding="utf-8")
    shown = pictures(text)
    html = Html(text)
    assert len(shown) == int(re.findall(r"(\d+) answers differ", html.root.text)[0])
    faces = {sha256_bytes(image.tobytes()) for image in small_faces().images}
    assert {sha256_bytes(picture.tobytes()) for picture in shown} <= faces
    first = html.root.all("ul")[0]
    assert first.attributes["class"] == "warnings"
    assert "do not publish it" in first.text
    assert all(node.attributes["alt"] for node in html.root.all("img"))


@pytest.mark.usefixtures("no_drawings")
def test_a_bench_writes_the_report_of_its_own_rows(
    capsys: pytest.CaptureFixture[str],
    own_bundle: Bundle,
    source: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench_command, "_protocol", lambda quick, pace: SHORT)
    saved, path = tmp_path / "b.json", tmp_path / "b.html"
    words = ("--data", source, "--backend", "onnxruntime", "--save", saved, "--html", path)
    code, out, err = run(capsys, "bench", own_bundle.path, *words, "--format", "json")
    assert code == 0, err
    int8 = json.loads(out)["rows"][-1]
    html = Html(path.read_text(encoding="utf-8"))
    shown = html.root.text
    assert f"{int8['p50_ms']:.3f}" in shown
    assert f"is {int8['speedup']:.2f} times as fast" in shown or "is slower than FP32" in shown
    assert BENCH_FILE in shown  # it was recorded before the digests were written down
    assert "QUICK" in html.root.all("ul")[0].text
    # The same rows again, from the file alone and with the bundle.
    again = tmp_path / "again.html"
    code, out, err = run(capsys, "bench", "--from", saved, "--html", again, "--format", "json")
    assert code == 0, err
    assert json.loads(out)["rows"][-1] == int8
    assert f"{int8['p50_ms']:.3f}" in Html(again.read_text(encoding="utf-8")).root.text
    code, _, err = run(capsys, "report", own_bundle.path, "--bench", saved, "-o", again)
    assert code == 0, err
    shown = Html(again.read_text(encoding="utf-8")).root.text
    assert f"{int8['p50_ms']:.3f}" in shown
    assert own_bundle.manifest.artifacts[0].sha256 in shown
    assert "140" in shown  # the number of raw times: two repeats of 70


@pytest.mark.parametrize(
    ("words", "code", "said", "fix"),
    [
        (("--split", "public"), 2, "no data is used", "add --data"),
        (("-o", "r.txt"), 2, "must end in .html", "r.txt.html"),
        (("-o", "."), 2, "not the name of a web page", "html"),
        (("-o", "folder.html"), 2, "is a folder", "folder.html/report.html"),
        (("-o", "file/r.html"), 2, "is not a folder", ""),
        (("--bench", "none.json"), 2, "cannot be read", ""),
        (("--bench", "list.json"), 2, "is not the result of a bench", "--save"),
        (("--bench", "half.json"), 2, "is not JSON", ""),
        (("--bench", "other.json"), 2, "it timed none of its files", "fer-edge bench"),
        ((), 2, "holds no results", "fer-edge verify"),
    ],
)
def test_mistakes_are_one_line_each(
    capsys: pytest.CaptureFixture[str],
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    said: str,
    fix: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "half.json").write_text('{"rows": [')
    made_result().save(tmp_path / "other.json")
    got, out, err = run(capsys, "report", tiny_bundle.path, *words)
    assert (got, out) == (code, "")
    first, *rest = errors(err)
    assert said in first
    assert fix in "".join(rest)
    assert not (tmp_path / "report.html").exists()


def test_options_of_measuring_do_not_go_with_a_saved_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    saved = tmp_path / "b.json"
    made_result().save(saved)
    code, _, err = run(capsys, "bench", "mine", "--from", saved, "--quick", "--threads", "2")
    assert code == 2
    assert "--from measures nothing, so BUNDLE" in err
    assert "--threads, --quick cannot be given with it" in err
    code, _, err = run(capsys, "bench", "--from", saved, "--with-faces")
    assert code == 2
    assert "--with-faces is about the HTML file" in err


def test_a_folder_without_permission_is_refused_before_measuring(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write everywhere, so the system's answer is replaced.
    monkeypatch.setattr("fer_edge.report.page.page.os.access", lambda path, mode: path != tmp_path)
    code, _, err = run(capsys, "report", "-o", tmp_path / "r.html")
    assert code == 2
    assert "may not write to" in errors(err)[0]
    assert not list(tmp_path.iterdir())


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "report", "--help")
    assert code == 0
    assert "Example:" in out
