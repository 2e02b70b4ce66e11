"""The HTML report: its numbers are the result's, every figure has a table, nothing is loaded."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from fixtures_forged import controls, error_of, forged_json
from fixtures_measure import small_faces
from fixtures_report import Html, Node, made_result, made_row

from fer_edge.bundle import Bundle
from fer_edge.bundle.manifest import Manifest
from fer_edge.data.calibration import CalibrationRecipe, select_calibration
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import MissingExtraError, UsageError
from fer_edge.measure.latency import LatencySamples
from fer_edge.measure.record import VERIFY_FILE
from fer_edge.measure.result import BenchResult
from fer_edge.pretrained import pretrained_path
from fer_edge.report.card import card_markdown
from fer_edge.report.page import plots
from fer_edge.report.page.assemble import page_of
from fer_edge.report.page.blocks import Heading, Page, Table, Text
from fer_edge.report.page.chosen import choose
from fer_edge.report.page.headline import accuracy_sentence, headline, lead_lines
from fer_edge.report.page.origin import calibration_blocks
from fer_edge.report.page.page import check_page_path, html_of, write_page
from fer_edge.report.page.plots import Drawings
from fer_edge.report.page.sources import require_own_rows, result_of_bundle, with_times
from fer_edge.report.page.speed import all_rows
from fer_edge.report.responsible import RESPONSIBLE_USE

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

LARGEST = 300_000
"""Bytes of a report of seven classes without faces. Its eight drawings (four figures, wide and
narrow) have 10 to 25 kB each, tables the rest; a library that draws by a script needs more than
this for itself alone."""


@pytest.fixture(scope="module")
def result() -> BenchResult:
    return made_result()


@pytest.fixture(scope="module")
def text(result: BenchResult) -> str:
    return html_of(page_of(result))


@pytest.fixture(scope="module")
def html(text: str) -> Html:
    return Html(text)


def section(html: Html, name: str) -> Node:
    (found,) = html.root.all("section", lambda node: node.attributes.get("id") == name)
    return found


def table(node: Node, caption: str) -> list[list[str]]:
    (found,) = [one for one in node.all("table") if caption in one.all("caption")[0].text]
    return found.rows()


def test_the_key_sentence_comes_first(html: Html, result: BenchResult) -> None:
    int8 = result.find("onnxruntime", "int8")
    assert int8 is not None
    assert int8.delta_top1 is not None
    assert int8.delta_ci95 is not None
    assert int8.speedup is not None
    (heading,) = html.root.all("h1")
    low, _ = int8.delta_ci95
    assert f"INT8 loses {-100 * int8.delta_top1:.2f} points" in heading.text
    assert f"95 % interval: {-100 * low:.2f} lost to" in heading.text
    assert f"is {int8.speedup:.2f} times as fast as FP32." in heading.text
    lead = " ".join(node.text for node in html.root.all("p", is_lead))
    assert f"{int8.flips} answers differ" in lead
    assert "A CPU, 2 cores" in lead


def is_lead(node: Node) -> bool:
    return node.attributes.get("class") == "lead"


def test_the_rows_are_those_of_the_result(html: Html, result: BenchResult) -> None:
    head, *rows = table(section(html, "tradeoff"), "All engines that ran")
    ran = [row for row in result.rows if row.status == "ok"]
    assert [cells[0] for cells in rows] == [f"{i} {row.name}" for i, row in enumerate(ran, 1)]
    for cells, row in zip(rows, ran, strict=True):
        shown = dict(zip(head, cells, strict=True))
        if row.backend == "null":
            continue
        assert row.top1 is not None
        assert shown["top-1"] == f"{100 * row.top1:.2f} %"
        assert shown["p50 ms"] == f"{row.p50_ms:.3f}"
        assert shown["p99 ms"] == f"{row.p99_ms:.3f}"
        if row.delta_top1 is not None:
            assert shown["flips"] == str(row.flips)
            assert shown["delta"] == f"{100 * row.delta_top1:+.2f}".replace("-0.00", "+0.00")
    _, refused = table(section(html, "tradeoff"), "did not run")
    assert refused == ["openvino int8", "unavailable", "no openvino here"]


def test_confusion_matrices_are_the_recorded_counts(html: Html, result: BenchResult) -> None:
    matrices = section(html, "confusion").all("table")
    wanted = [result.rows[place] for place in (1, 2, 3)]
    titles = ["Reference (pytorch fp32)", "FP32 (onnxruntime)", "INT8 (onnxruntime)"]
    assert [one.all("caption")[0].text for one in matrices] == titles
    base = result.rows[2].accuracy
    assert base is not None
    for shown, row in zip(matrices, wanted, strict=True):
        assert row.accuracy is not None
        _, *rows = shown.rows()
        counts = [
            [
                f"{count} {count - old:+d}".replace("-", "−").removesuffix(" +0")
                if row is wanted[2]
                else str(count)
                for count, old in zip(now, before, strict=True)
            ]
            for now, before in zip(row.accuracy["confusion"], base["confusion"], strict=True)
        ]
        assert [cells[1:-1] for cells in rows] == counts
        recalls = [score["recall"] for score in row.accuracy["per_class"].values()]
        assert [float(cells[-1]) for cells in rows] == pytest.approx(
            [100 * recall for recall in recalls], abs=0.05
        )


def test_recall_changes_are_those_of_the_matrices(html: Html, result: BenchResult) -> None:
    _, *rows = table(section(html, "recall"), "Recall of each class")
    before, after = result.rows[2].accuracy, result.rows[3].accuracy
    assert before is not None
    assert after is not None
    for cells, (name, score) in zip(rows, before["per_class"].items(), strict=True):
        recall = after["per_class"][name]["recall"]
        assert cells[:4] == [
            name,
            str(score["n"]),
            f"{100 * score['recall']:.2f} %",
            f"{100 * recall:.2f} %",
        ]
        assert float(cells[4]) == pytest.approx(100 * (recall - score["recall"]), abs=0.005)


def test_percentiles_come_from_the_raw_times(html: Html, result: BenchResult) -> None:
    head, *rows = table(section(html, "latency"), "Percentiles")
    int8 = result.rows[3]
    shown = dict(zip(head, rows[-1], strict=True))
    assert shown["engine"] == "onnxruntime int8"
    assert int8.ns is not None
    samples = LatencySamples(tuple(np.array(repeat, np.int64) for repeat in int8.ns))
    for q in (10, 25, 75, 90, 99):
        assert shown[f"p{q}, ms"] == f"{samples.percentile_ms(q):.3f}"
    assert shown["p50, ms"] == f"{int8.p50_ms:.3f}"
    assert shown["p99.9, ms"] == "n/a"  # 700 times are too few
    assert shown["times"] == "2,100"


def test_reliability_has_the_bins_of_each_engine(html: Html, result: BenchResult) -> None:
    _, *rows = table(section(html, "reliability"), "Answers by their confidence")
    for place, row in enumerate(result.rows[1:4]):
        assert row.accuracy is not None
        bins = row.accuracy["reliability"]
        assert [int(cells[1 + 3 * place]) for cells in rows] == bins["n"]
        for cells, n, right in zip(rows, bins["n"], bins["accuracy"], strict=True):
            assert cells[3 + 3 * place] == (f"{100 * right:.2f} %" if n else "n/a")


def test_every_figure_has_a_description_and_a_table(html: Html) -> None:
    figures = html.root.all("figure")
    assert len(figures) == 5
    for figure in figures:
        assert figure.all("table"), figure.attributes
        assert figure.all("figcaption")[0].text
        for drawing in figure.all("svg"):
            assert drawing.attributes["role"] == "img"
            assert "the table below" in (drawing.attributes["aria-label"] or "")
    assert sum(len(figure.all("svg")) for figure in figures) == 8


def test_the_page_loads_nothing_and_runs_nothing(text: str, html: Html) -> None:
    loading = {"src", "href", "xlink:href", "action", "srcset", "data", "poster", "background"}
    for node in html.every():
        assert node.name not in {"script", "iframe", "object", "embed", "link", "form", "base"}
        for name, value in node.attributes.items():
            assert not name.startswith("on"), f"{node.name} {name}"
            if name in loading:
                assert (value or "").startswith("#"), f"{node.name} {name}={value}"
    assert "@import" not in text
    assert set(re.findall(r"url\(([^)]*)\)", text)) <= set(re.findall(r"url\((#[^)]*)\)", text))
    # The names of XML's vocabularies look like addresses, but are not loaded.
    assert set(re.findall(r"https?://[^\"' <)]*", text)) <= {"http://www.w3.org/1999/xlink"}
    assert "default-src 'none'" in text
    assert len(text.encode()) < LARGEST


def test_ids_are_unique_and_all_links_lead_somewhere(html: Html) -> None:
    every = html.every()
    ids = [node.attributes["id"] for node in every if "id" in node.attributes]
    assert len(ids) == len(set(ids))
    for node in every:
        for name in ("href", "xlink:href", "aria-labelledby"):
            if name in node.attributes:
                assert (node.attributes[name] or "").lstrip("#") in ids
    style = " ".join(node.attributes.get("style") or "" for node in every)
    assert set(re.findall(r"url\(#([^)]*)\)", style)) <= set(ids)


def test_drawings_take_their_colours_from_the_page(text: str) -> None:
    """A colour that matplotlib chose itself would be wrong in dark mode."""
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert drawings.count("var(--int8)") > 10
    assert re.findall(r"(?:fill|stroke|color): ?(#\w+|rgb\w*\([^)]*\))", drawings) == []
    style = text.partition("<style>")[2].partition("</style>")[0]
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    light, _, dark = style.partition("prefers-color-scheme: dark")
    defined = set(re.findall(r"--([\w-]+):", light))
    assert used <= defined
    assert set(re.findall(r"--([\w-]+):", dark)) == defined - {"font"}


def test_headings_go_down_step_by_step(html: Html) -> None:
    levels = [int(match[1]) for match in re.finditer(r"<h([1-6])\b", html_text(html))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    # Tables scroll in a box of their own, which the keyboard reaches and which has a name.
    for box in html.root.all("div", lambda node: node.attributes.get("class") == "scroll"):
        assert box.attributes["tabindex"] == "0"
        assert box.attributes["aria-label"]
    assert html.root.all("html")[0].attributes["lang"] == "en"
    assert html.root.all("a")[0].attributes["href"] == "#main"


def html_text(html: Html) -> str:
    order: list[str] = []

    def walk(node: Node) -> None:
        order.append(f"<{node.name} >")
        for child in node.children:
            walk(child)

    walk(html.root)
    return "".join(order)


def test_names_and_notes_are_text_never_markup() -> None:
    """Whoever makes a result or a bundle chooses these texts."""
    evil = "<script>alert(1)</script>"
    names = (evil, "--><img src=x onerror=alert(1)>", '"><b>', "$x^2$", "{{ 7 * 7 }}", "a&b", "'")
    hostile = made_result(
        names,
        notes=(f"note {evil}", "\x1b[31m red \u202e turned"),
        reference=f"pytorch {evil}",
        created=evil,
        fer_edge=evil,
        environment={**made_result().environment, "os": evil, evil: {evil: [evil]}},
    )
    rows = tuple(
        replace(row, bundle=row.bundle and f"mine {evil}", note=evil, provider=evil, artifact=evil)
        for row in hostile.rows
    )
    text = html_of(page_of(replace(hostile, rows=rows)))
    html = Html(text)
    assert [node.name for node in html.every() if node.name in {"script", "img", "b"}] == []
    assert html.root.all("title")[0].text == f"fer-edge report: mine {evil}"
    assert "{{ 7 * 7 }}" in text
    assert "49" not in [cell.text for cell in html.root.all("th")]
    assert "\x1b" not in text
    assert "\u202e" not in text
    (first, *_), *_ = table(section(html, "recall"), "Recall of each class")[1:]
    assert first == evil
    labels = [node.text for node in section(html, "recall").all("text")]
    assert {evil, "$x^2$", "a&b"} <= set(labels)


def test_responsible_use_ends_the_page(html: Html) -> None:
    last = html.root.all("section")[-1]
    assert [node.text for node in last.all("p")] == list(RESPONSIBLE_USE)
    said = last.text
    for words in ("does not know what the person feels", "2024/1689", "Article 5(1)(f)", "stores"):
        assert words in said


def test_every_card_ends_with_responsible_use() -> None:
    """The text is the package's: cards of bundles that were made earlier have it too."""
    text = card_markdown(Manifest("n", "c", "v"))
    assert text.endswith("## Responsible use\n\n" + "\n\n".join(RESPONSIBLE_USE) + "\n")


def test_no_pixels_without_being_asked(text: str) -> None:
    assert "data:image" not in text
    assert "<img" not in text


@pytest.mark.parametrize(
    ("delta", "interval", "said"),
    [
        (-0.002, (-0.005, 0.001), "loses 0.20 points of top-1 accuracy (95 % interval: 0.50 lost"),
        (0.003, (0.001, 0.005), "gains 0.30 points of top-1 accuracy (95 % interval: 0.10 gained"),
        (0.0, (0.0, 0.0), "keeps the top-1 accuracy (95 % interval: 0.00 to 0.00)"),
        (-0.00001, None, "keeps the top-1 accuracy"),
    ],
)
def test_loss_in_words(delta: float, interval: tuple[float, float] | None, said: str) -> None:
    row = replace(made_row("int8", 1.0), delta_top1=delta, delta_ci95=interval)
    assert accuracy_sentence(row).startswith(said)


def test_the_key_sentence_without_speed_without_int8_and_with_a_slower_one() -> None:
    whole = made_result()
    untimed = replace(
        whole, rows=tuple(replace(row, p50_ms=None, speedup=None) for row in whole.rows)
    )
    chosen = choose(untimed, "mine")
    assert headline(chosen).endswith("gained).") or headline(chosen).endswith("lost).")
    assert "not recorded" in " ".join(lead_lines(untimed, chosen))
    slower = replace(whole, rows=(*whole.rows[:3], replace(whole.rows[3], speedup=0.8)))
    assert "is slower than FP32 (0.80 times" in headline(choose(slower, "mine"))
    full = choose(replace(whole, rows=whole.rows[:3]), "mine")
    assert headline(full).startswith("No INT8 engine was measured; onnxruntime fp32 has a top-1")
    none = choose(replace(whole, rows=whole.rows[:1]), "")
    assert headline(none) == "No engine was measured."


def test_a_graph_for_another_backend_is_named_and_never_the_main_one() -> None:
    """ONNX Runtime also runs TensorRT's INT8 graph, to verify it: that is not what it would use."""
    whole = made_result()
    untimed = replace(whole.rows[3], p50_ms=None, artifact="model.int8.onnxruntime.onnx")
    other = replace(untimed, artifact="model.int8.tensorrt.onnx", delta_top1=0.1)
    both = replace(whole, rows=(*whole.rows[:3], other, untimed))
    assert choose(both, "mine").small is untimed
    names = [cells[0] for cells in all_rows(both).rows]
    assert names[3:] == ["4 onnxruntime int8 (model.int8.tensorrt.onnx)", "5 onnxruntime int8"]


def test_each_network_of_a_bench_has_its_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plots, "_both", lambda *args: Drawings("", ""))
    whole = made_result()
    second = [replace(row, bundle="second", speedup=1.5) for row in whole.rows[1:4]]
    both = page_of(replace(whole, rows=(*whole.rows, *second)))
    assert both.lines[0] == "This is the network mine."
    assert both.lines[-1].startswith("The network second: INT8 loses")
    assert both.lines[-1].endswith("and is 1.50 times as fast as FP32.")
    headings = [
        block.text
        for section_ in both.sections
        for block in section_.blocks
        if isinstance(block, Heading)
    ]
    assert headings == ["mine", "second"] * 3


def test_a_result_without_engines_still_makes_a_page() -> None:
    whole = made_result()
    html = Html(html_of(page_of(replace(whole, rows=(whole.rows[0], whole.rows[4])))))
    assert "no openvino here" in section(html, "tradeoff").text
    assert "No confusion matrix is recorded" in section(html, "confusion").text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"p50_ms": -1.0}, "latency of -1.0 ms"),
        ({"p99_ms": 1e300}, "latency of"),
        ({"top1": 2.0}, "a fraction from 0 to 1"),
        ({"n": 0}, "0 images"),
        ({"ns": ((1, -5),)}, "no times"),
        ({"ns": ((),)}, "no times"),
        ({"accuracy": {"per_class": 3}}, "accuracy of onnxruntime fp32"),
        ({"accuracy": {"per_class": {"a": {"n": 1}}, "confusion": [[1, 2]]}}, "does not fit"),
        (
            {
                "accuracy": {
                    "per_class": {"a": {"n": 1, "recall": 1.0}},
                    "confusion": [[1]],
                    "reliability": {"n": [1], "confidence": [None], "accuracy": [1.0]},
                }
            },
            "without a mean",
        ),
    ],
)
def test_numbers_that_cannot_be_are_one_line(changes: dict[str, object], said: str) -> None:
    whole = made_result()
    rows = (*whole.rows[:2], replace(whole.rows[2], **changes), *whole.rows[3:])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=re.escape(said)):
        page_of(replace(whole, rows=rows))


def test_times_of_a_bench_join_what_was_measured_now() -> None:
    bench = made_result()
    now = [replace(row, p50_ms=None, ns=None, top1=0.5) for row in bench.rows[1:4]]
    measured = replace(bench, rows=tuple(now), protocol={})
    joined = with_times(measured, bench)
    assert [row.name for row in joined.rows] == [row.name for row in bench.rows]
    int8, timed = joined.rows[3], bench.rows[3]
    assert (int8.top1, int8.p50_ms, int8.ns) == (0.5, timed.p50_ms, timed.ns)
    assert joined.protocol == bench.protocol
    # Scores of other images are not mixed in, and times of another file are not those of this one.
    elsewhere = replace(bench, dataset={**bench.dataset, "split": "private"})
    other = replace(now[2], artifact_sha256="c" * 64)
    joined = with_times(replace(measured, rows=(*now[:2], other)), elsewhere)
    assert [row.name for row in joined.rows] == [
        "onnxruntime int8",
        "pytorch fp32",
        "onnxruntime fp32",
    ]
    assert joined.rows[0].p50_ms is None


def test_a_bundle_without_results_says_so(tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="holds no results"):
        result_of_bundle(tiny_bundle, None)


def test_forged_results_give_a_page_or_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any value in any place of a saved result; the drawings alone are left out, for the time."""
    drawn = []

    def draw(*args: object) -> Drawings:
        drawn.append(args)
        return Drawings("", "")

    monkeypatch.setattr(plots, "_both", draw)
    content = json.loads(made_result().to_json())
    for row in content["rows"]:
        row["ns"] = row["ns"] and [repeat[:3] for repeat in row["ns"]]
    shown = 0
    for what, forged in forged_json(content, 100):
        text = json.dumps(forged)

        def use(text: str = text) -> None:
            nonlocal shown
            page = html_of(page_of(BenchResult.from_json(text)))
            assert not controls(page)
            shown += 1

        error_of(use, what)
    assert shown > 20
    assert drawn


def test_forged_verifications_give_a_page_or_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "_both", lambda *args: Drawings("", ""))
    base = Bundle.open(pretrained_path("fer2013"))
    content = json.loads(base.read(base.artifact(path=VERIFY_FILE)))
    content["verifications"] = content["verifications"][:2]
    shown = 0
    for what, forged in forged_json(content, 50):
        text = json.dumps(forged).encode()
        monkeypatch.setattr(Bundle, "read", lambda self, artifact, text=text: text)

        def use() -> None:
            nonlocal shown
            result = result_of_bundle(base, None)
            html_of(page_of(result, {base.manifest.name: base}))
            shown += 1

        error_of(use, what)
    assert shown > 10


def test_the_classes_of_the_calibration_images_are_counted_again() -> None:
    dataset = small_faces(train=42, public=14, shared=0)
    chosen = select_calibration(dataset, CalibrationRecipe(name="own", count=14))
    manifest = Manifest("n", "c", "v", calibration=chosen.to_dict())
    (table_,) = [one for one in calibration_blocks(manifest, dataset) if isinstance(one, Table)]
    assert [row[:3] for row in table_.rows] == [[name, "2", "14.29 %"] for name in EMOTIONS]
    other = small_faces(train=42, public=21, shared=0)
    texts = [one.text for one in calibration_blocks(manifest, other) if isinstance(one, Text)]
    assert "another selection comes from this data set" in texts[0]
    unread = msgspec.structs.replace(
        manifest, calibration={"recipe": {"count": "many"}, "sha256": 3}
    )
    texts = [one.text for one in calibration_blocks(unread, dataset) if isinstance(one, Text)]
    assert texts[0].startswith("The images cannot be selected again: the calibration recipe")


def test_a_bench_of_another_network_is_refused(result: BenchResult, tiny_bundle: Bundle) -> None:
    with pytest.raises(UsageError, match=r"b.json is not a bench of .*tiny"):
        require_own_rows(result, tiny_bundle, "b.json")


def test_a_page_is_not_written_over_what_is_no_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must end in \.html"):
        check_page_path(tmp_path / "report.txt")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError, match="is a folder"):
        check_page_path(tmp_path / "folder.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is not a folder"):
        check_page_path(tmp_path / "file" / "report.html")


def test_a_page_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    page = Page("t", "h", [], [], [], [], "", "")

    def fail(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_page(page, path)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]


def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jinja2", None)
    with pytest.raises(MissingExtraError) as caught:
        check_page_path(tmp_path / "report.html")
    assert caught.value.fix == "pip install 'fer-edge[report]'"


def test_the_style_sheet_and_the_template_are_part_of_the_package() -> None:
    import fer_edge

    folder = Path(fer_edge.__file__).parent / "report" / "page"
    assert {path.suffix for path in folder.iterdir()} >= {".css", ".html"}
    project = (Path(fer_edge.__file__).parents[1] / "pyproject.toml").read_text()
    assert 'packages = ["fer_edge"]' in project  # hatch takes every file of it
    assert "jinja2" in json.dumps(project)
