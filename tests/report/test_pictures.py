"""Pictures of evaluations: complete, nothing cut off at their edges, and honest about faces."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures_measure import small_faces
from PIL import Image

from fer_edge.data import load
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.measure.accuracy import evaluate
from fer_edge.measure.evaluation import Evaluation, answers
from fer_edge.measure.reliability import confidence_bins
from fer_edge.report import canvas
from fer_edge.report import evaluation as module
from fer_edge.report.canvas import LINES, Sheet, describe_images, faces_notice
from fer_edge.report.confusion import draw_confusion
from fer_edge.report.evaluation import (
    evaluation_numbers,
    evaluation_rows,
    evaluation_title,
    mistake_rows,
    per_class_rows,
    write_evaluation,
)
from fer_edge.report.faces import draw_predictions, short_id
from fer_edge.report.gradcam import MeanMap, draw_explanations, draw_mean_maps, mean_maps, overlay
from fer_edge.report.history import draw_histories, read_history

HISTORY = """epoch,lr,train_loss,public_loss,public_top1,public_macro_f1,images_per_s,seconds
1,0.05,1.9,1.8,0.30,0.2,100,9
2,0.1,1.7,1.6,0.45,0.3,100,9
3,0.01,1.6,1.61,0.44,0.31,100,9
"""


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    images = load("synthetic:700").select("public")
    random = np.random.default_rng(0)
    logits = (3 * np.eye(7)[images.labels] + random.normal(0, 2, (len(images), 7))).astype("f4")
    scores = evaluate(logits, images.labels)
    return Evaluation(
        subject="runs/mine",
        engine={"backend": "onnxruntime", "precision": "int8"},
        split="public",
        images=images,
        logits=logits,
        scores={"single": scores, "flip": scores},
        bins=confidence_bins(logits, images.labels),
        notes=(),
        created="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw fewer pixels: places are in inches."""
    monkeypatch.setattr(canvas, "_DPI", 50)


def pixels_of(path: Path) -> np.ndarray:
    """Read a picture whose edges must be white all round: nothing is cut off."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    for edge in (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:]):
        assert (edge == 255).all(), f"{path.name} is cut off"
    assert pixels.std() > 5
    return pixels


def test_a_folder_has_it_all(evaluation: Evaluation, tmp_path: Path) -> None:
    (tmp_path / "history.csv").write_text(HISTORY)
    written = write_evaluation(
        evaluation, tmp_path / "out", history=tmp_path / "history.csv", mistakes=9
    )
    assert sorted(path.name for path in written) == [
        "confusion.png",
        "history.png",
        "metrics.json",
        "mistakes.csv",
        "mistakes.png",
        "per_class.png",
        "predictions.csv",
        "reliability.png",
    ]
    assert sorted(written) == sorted((tmp_path / "out").iterdir())
    for path in written:
        if path.suffix == ".png":
            pixels_of(path)
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content == evaluation.to_dict(mistakes=9)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "predictions.csv").read_text())))
    assert [row["id"] for row in rows] == list(evaluation.images.ids)
    right = sum(row["true"] == row["predicted"] for row in rows)
    assert right / len(rows) == pytest.approx(evaluation.accuracy.top1)
    assert sum(float(rows[0][name]) for name in evaluation.accuracy.per_class) == pytest.approx(1)
    wrong = list(csv.DictReader(io.StringIO((tmp_path / "out" / "mistakes.csv").read_text())))
    assert [row["id"] for row in wrong] == [row["id"] for row in mistake_rows(evaluation, 9)]


def test_a_perfect_engine_without_a_class_can_be_drawn(
    evaluation: Evaluation, tmp_path: Path
) -> None:
    images = evaluation.images.take(np.flatnonzero(evaluation.images.labels != 1)[:5])
    logits = np.eye(7, dtype=np.float32)[images.labels] * 50
    perfect = replace(
        evaluation,
        images=images,
        logits=logits,
        scores={"single": evaluate(logits, images.labels)},
        bins=confidence_bins(logits, images.labels),
    )
    written = write_evaluation(perfect, tmp_path)
    assert "history.png" not in {path.name for path in written}
    assert (tmp_path / "mistakes.csv").read_text() == ""
    rows = per_class_rows(perfect)
    assert rows[1]["recall"] is None
    assert {row["most often taken for"] for row in rows} == {"-"}


def test_tables_name_views_and_their_cost(evaluation: Evaluation) -> None:
    rows = evaluation_rows(evaluation)
    assert list(rows[0]) == ["score", "single view", "flip: 2 views, 2x the time"]
    assert rows[0]["single view"] == f"{100 * evaluation.accuracy.top1:.2f} %"
    numbers = evaluation_numbers(evaluation)
    (top1,) = [r for r in numbers if r["score"] == "top1" and r["views"] == "flip"]
    assert (top1["passes"], top1["value"]) == (2, evaluation.accuracy.top1)
    title = evaluation_title(evaluation)
    assert "runs/mine, onnxruntime int8 | SYNTHETIC faces, not FER2013" in title
    counts = np.array(evaluation.accuracy.confusion)
    np.fill_diagonal(counts, 0)
    taken = str(per_class_rows(evaluation)[0]["most often taken for"])
    assert f"({counts[0].max()}," in taken


def test_without_matplotlib_nothing_is_written(
    evaluation: Evaluation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, extra: str) -> None:
        raise UsageError(f"{name} {extra}")

    monkeypatch.setattr(module, "require", missing)
    with pytest.raises(UsageError, match="matplotlib report"):
        write_evaluation(evaluation, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_long_name_is_not_cut_off(evaluation: Evaluation, tmp_path: Path) -> None:
    title = "/a/very/long/path" * 8 + " | " + "SYNTHETIC faces, not FER2013: synthetic:700, public"
    pixels_of(draw_confusion(evaluation.accuracy, tmp_path / "a.png", title=title))
    sheet = Sheet(2, 1, title=title, subtitle="under a $title_ with signs")
    pixels_of(sheet.save(tmp_path / "b.png"))


# -- faces -----------------------------------------------------------------------------------------


def test_the_face_and_the_bars_are_on_the_sheet(evaluation: Evaluation, tmp_path: Path) -> None:
    images = evaluation.images
    shown = answers(images, evaluation.logits, range(4))
    path = tmp_path / "p.png"
    shares = evaluation.probabilities[:4]
    draw_predictions(images, shown, shares, path, title="mine", subtitle="four")
    first = pixels_of(path)
    # One other face changes the picture there, one other probability its bar.
    turned = replace(images, images=images.images[:, ::-1])
    draw_predictions(turned, shown, shares, path, title="mine", subtitle="four")
    assert (pixels_of(path) != first).any()
    changed = shares.copy()
    changed[3] = changed[3][::-1]
    draw_predictions(images, shown, changed, path, title="mine", subtitle="four")
    different = np.argwhere((pixels_of(path) != first).any(axis=2))
    assert len(different)
    assert different[:, 0].min() > first.shape[0] / 2, "the fourth face is in the second row"


def test_only_real_faces_carry_the_notice(evaluation: Evaluation) -> None:
    real = small_faces()
    assert faces_notice(evaluation.images) == ""
    assert faces_notice(None) == ""
    assert faces_notice(real) == "Faces from small.npz: not for publication"
    assert describe_images(real, "train") == "small.npz, train, n = 63"


def test_short_ids_keep_their_end() -> None:
    assert short_id("sad/PublicTest_1", 20) == "sad/PublicTest_1"
    assert short_id("neutral/PublicTest_12345678", 10) == "…_12345678"


# -- Grad-CAM --------------------------------------------------------------------------------------


def test_means_are_over_right_answers_alone(evaluation: Evaluation) -> None:
    images, n = evaluation.images.images, len(evaluation.images)
    maps = np.random.default_rng(1).random((n, 48, 48), np.float32)
    said = answers(evaluation.images, evaluation.logits, range(n))
    (sad,) = mean_maps(images, maps, said, ["sad"])
    labels, predicted = evaluation.images.labels, evaluation.logits.argmax(1)
    right = (labels == 4) & (predicted == 4)
    assert (sad.n, sad.of) == (right.sum(), (labels == 4).sum())
    assert 0 < sad.n < sad.of
    np.testing.assert_allclose(sad.map, maps[right].mean(0))
    np.testing.assert_allclose(sad.face, images[right].mean(0))


def test_the_overlay_leaves_cold_places_as_they_are() -> None:
    face = np.full((48, 48), 120, np.uint8)
    heat = np.zeros((48, 48), np.float32)
    heat[10:20, 10:20] = 1
    mixed = overlay(face, heat)
    np.testing.assert_allclose(mixed[30, 30], 120 / 255, atol=1e-6)
    assert np.ptp(mixed[15, 15]) > 0.1, "hot places are coloured"
    assert mixed.min() >= 0
    assert mixed.max() <= 1


def test_maps_are_drawn_even_where_nobody_was_right(evaluation: Evaluation, tmp_path: Path) -> None:
    images = evaluation.images.images[:2]
    maps = np.stack([np.eye(48, dtype=np.float32), np.zeros((48, 48), np.float32)])
    said = answers(evaluation.images, evaluation.logits, range(2))
    unknown = [replace(answer, true="") for answer in said]
    options = {"title": "mine", "subtitle": "layer"}
    each = pixels_of(draw_explanations(images, maps, unknown, tmp_path / "e.png", **options))
    nobody = mean_maps(images, maps, said, ["happy", said[0].true])
    assert nobody[0].n == 0
    means = pixels_of(draw_mean_maps(nobody, tmp_path / "m.png", **options))
    for pixels in (each, means):
        assert np.ptp(pixels.astype(int), axis=2).max() > 60, "a heat map has colours"


def test_mean_maps_of_many_classes_are_in_rows(tmp_path: Path) -> None:
    options = {"title": "mine", "subtitle": "layer"}
    face, heat = np.full((48, 48), 120, np.float32), np.eye(48, dtype=np.float32)
    many = [MeanMap(f"class {i}", 1, 2, heat, face) for i in range(23)]
    ten = pixels_of(draw_mean_maps(many[:10], tmp_path / "ten.png", **options))
    drawn = pixels_of(draw_mean_maps(many, tmp_path / "many.png", **options))
    assert drawn.shape[1] == ten.shape[1]
    assert drawn.shape[0] > 2 * ten.shape[0]


# -- histories -------------------------------------------------------------------------------------


def test_histories_are_read_and_drawn(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    path.write_text(HISTORY)
    rows = read_history(path)
    assert [row["public_top1"] for row in rows] == [0.30, 0.45, 0.44]
    one = pixels_of(draw_histories({"a": rows}, tmp_path / "one.png"))
    two = pixels_of(draw_histories({"a": rows, "b": rows[:1]}, tmp_path / "two.png"))
    assert one.shape != two.shape
    assert read_history(tmp_path / "none.csv") == []


def test_histories_that_cannot_be_drawn_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="runs/new"):
        draw_histories({"runs/new": []}, tmp_path / "x.png")
    many = {str(i): [] for i in range(len(LINES) + 1)}
    with pytest.raises(UsageError, match="too many"):
        draw_histories(many, tmp_path / "x.png")
    path = tmp_path / "history.csv"
    path.write_text("epoch,loss\n1,2\n")
    with pytest.raises(IntegrityError, match="history"):
        read_history(path)


@pytest.mark.parametrize("ms", [0.0, -1.0, 1e-320, 1e7])
def test_times_that_are_none_are_refused_before_they_are_drawn(ms: float) -> None:
    from fixtures_report import made_result

    from fer_edge.report.page.chosen import check_rows

    good = made_result()
    check_rows(good)
    rows = (replace(good.rows[0], p50_ms=ms), *good.rows[1:])
    with pytest.raises(UsageError, match="has a latency of"):
        check_rows(replace(good, rows=rows))


@pytest.mark.parametrize("ms", [1e-6, 0.1, 1.0, 1e5])
def test_times_that_are_all_the_same_have_an_axis(ms: float, tmp_path: Path) -> None:
    """Without a warning, which is an error here; matplotlib gives one for 0.1, and not for 1."""
    from fer_edge.report.canvas import new_figure, set_log_limits
    from fer_edge.report.page.plots import Point, Strip, draw_points, draw_strips

    points = [Point(n, "x", "onnxruntime", "int8", ms, (ms, ms), 0.5, 0.0) for n in (1, 2)]
    assert "<svg" in draw_points(points, "a").wide
    strip = Strip("x", "int8", dict.fromkeys((10.0, 25.0, 50.0, 75.0, 90.0, 99.0), ms))
    assert "<svg" in draw_strips([strip, strip], "a").wide
    axes = new_figure(4, 3).add_subplot()
    set_log_limits(axes, [ms, ms])
    axes.plot([ms], [1], "o")
    low, high = axes.get_xlim()
    assert (low, high) == pytest.approx((ms / 2, ms * 2))


def test_names_that_the_font_lacks_and_long_ones_give_no_warning(tmp_path: Path) -> None:
    from fer_edge.report.canvas import new_figure, save_figure
    from fer_edge.report.page.plots import Change, draw_recalls

    for name in ("名前", "\ue000 $x$ $", "long " * 80):
        assert "<svg" in draw_recalls([Change(name, 0.5, 0.4, 0.03)], "a").wide
        figure = new_figure(4, 3)
        figure.add_subplot().set_yticks([0], [name.replace("$", "")])
        assert save_figure(figure, tmp_path / "a.png").stat().st_size > 1000
