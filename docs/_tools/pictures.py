"""The pictures of the concepts, drawn from the package's own tables where there is one."""

from __future__ import annotations

import json
from collections.abc import Callable

import layers
from svg import Drawing

from fer_edge.measure.gate import GatePolicy
from fer_edge.measure.latency import min_samples
from fer_edge.pretrained import pretrained_path
from fer_edge.quantize.placement import PLACEMENTS, Placement

__all__ = ["PICTURES"]


def bundle() -> Drawing:
    """Draw the files of a bundle and the chain of their digests."""
    d = Drawing(
        "bundle",
        820,
        330,
        "A bundle: the manifest has the digest of every file, and each engine has that of the file "
        "it was made from.",
        "Arrows: made from. The manifest has the SHA-256 of every file, that of the file it was "
        "made from, and its own.",
    )
    d.box(8, 8, 804, 314, kind="dashed")
    d.text(24, 32, "runs/mine/bundle", size=13, bold=True, mono=True)
    d.box(24, 130, 150, 58, "model.safetensors", "checkpoint", kind="soft", mono=True)
    d.box(214, 130, 150, 58, "model.fp32.onnx", "the portable graph", mono=True)
    d.box(420, 60, 168, 50, "model.fp16.onnx", "half precision", mono=True)
    d.box(420, 128, 168, 62, "model.int8.*.onnx", "one per placement", kind="accent", mono=True)
    d.box(636, 128, 160, 62, "engines/*.plan", "TensorRT, one device", mono=True, kind="dashed")
    d.arrow((174, 159), (214, 159))
    d.arrow((364, 150), (390, 150), (390, 85), (420, 85))
    d.arrow((364, 162), (420, 162))
    d.arrow((588, 159), (636, 159))
    d.box(
        24,
        232,
        240,
        74,
        "manifest.json",
        "digests, calibration, gates,",
        "results, card",
        kind="warm",
    )
    d.box(
        290,
        232,
        220,
        74,
        "golden.npz",
        "inputs and logits for the",
        "self-test of every device",
        kind="good",
    )
    d.box(
        536,
        232,
        260,
        74,
        "verify.json, bench.json",
        "measured results:",
        "accuracy, flips, latency",
    )
    return d


def gate() -> Drawing:
    """Draw the limits of :class:`GatePolicy` between an engine and its verdict."""
    policy = GatePolicy()
    d = Drawing(
        "gate",
        820,
        330,
        "The gate: engine and reference get the same images; five limits decide.",
        "The limits are those of GatePolicy. PUBLIC judges once: if the engine fails, no other one "
        "is tried on it.",
    )
    d.box(8, 130, 140, 62, "PUBLIC", "3,589 images,", "each once", kind="soft")
    d.box(186, 70, 150, 52, "reference", "FP32")
    d.box(186, 200, 150, 52, "INT8 engine", "the timed object", kind="accent")
    d.arrow((148, 150), (166, 150), (166, 96), (186, 96))
    d.arrow((148, 172), (166, 172), (166, 226), (186, 226))
    rows = [
        ("top-1 falls by", f"at most {policy.max_top1_drop:.1%}"),
        ("the 95 % interval of that loss", f"ends below {2 * policy.max_top1_drop:.1%}"),
        (
            "the recall of a class falls by",
            f"at most {policy.max_recall_drop:.0%} "
            f"(small class: {policy.max_recall_drop_small:.0%})",
        ),
        ("labels that change", f"at most {policy.max_flips:.0%}"),
        ("speed over the next precision", f"at least {policy.min_speedup:.2f}x (p50)"),
    ]
    d.box(372, 20, 290, 280, kind="dashed")
    d.text(517, 44, "the gate", bold=True, anchor="middle")
    for row, (what, limit) in enumerate(rows):
        d.box(384, 58 + 47 * row, 266, 41, what, limit, size=12.5)
    d.arrow((336, 96), (372, 96))
    d.arrow((336, 226), (372, 226))
    d.box(704, 70, 108, 56, "passed", "the best engine", kind="good")
    d.box(704, 196, 108, 60, "failed", "exit code 3,", "not used", kind="warm")
    d.arrow((662, 98), (704, 98), kind="good")
    d.arrow((662, 226), (704, 226), kind="warm")
    return d


def calibration() -> Drawing:
    """Draw which images measure the ranges, which choose, and which judge."""
    from fer_edge.data.trial_images import TRIAL_IMAGES

    d = Drawing(
        "calibration",
        820,
        300,
        "Images of TRAIN calibrate and choose; PUBLIC judges once; PRIVATE is not used.",
        "What chooses does not judge. An image whose pixels are also in PUBLIC or PRIVATE is not "
        "used for INT8.",
    )
    d.text(12, 28, "FER2013", bold=True)
    d.box(12, 40, 520, 70, kind="dashed")
    d.text(24, 60, "TRAIN, 28,709 images", size=12, muted=True)
    d.box(24, 68, 120, 36, "512 images", kind="accent")
    d.box(152, 68, 150, 36, f"{TRIAL_IMAGES:,} images", kind="good")
    d.text(318, 91, "all others: training only", size=12, muted=True)
    d.box(548, 40, 124, 70, "PUBLIC", "3,589 images", kind="warm")
    d.box(688, 40, 124, 70, "PRIVATE", "3,589, sealed", kind="dashed")
    d.arrow((84, 104), (84, 172), kind="accent")
    d.arrow((227, 104), (227, 132), (330, 132), (330, 172), kind="good")
    d.arrow((610, 110), (610, 172), kind="warm")
    d.box(
        12,
        172,
        190,
        84,
        "calibration",
        "ranges of the activations:",
        "minmax, entropy, percentile",
        kind="accent",
    )
    d.box(
        232,
        172,
        216,
        84,
        "choice",
        "method, rounding, layers:",
        "least KL from FP32, no labels",
        kind="good",
    )
    d.box(520, 172, 180, 84, "the gate", "accuracy, recall, flips,", "once", kind="warm")
    d.arrow((202, 214), (232, 214))
    d.arrow((448, 214), (520, 214), words="one graph")
    d.text(
        12,
        288,
        "PRIVATE scores a frozen network: fer-edge verify --split private",
        size=12,
        muted=True,
    )
    return d


def _placement_row(d: Drawing, y: float, p: Placement, name: str) -> None:
    d.text(12, y + 24, name, bold=True)
    d.text(
        12,
        y + 42,
        f"activations: {p.activation}" + (", symmetric" if p.symmetric else ""),
        size=11,
        muted=True,
    )
    d.text(12, y + 58, f"bias: {p.bias}", size=11, muted=True)
    x = 200.0
    pair = {"w": 52, "h": 34}
    for number, operator in enumerate(("Conv", "Conv")):
        d.box(x, y + 12, pair["w"], pair["h"], "Q/DQ", kind="warm", size=11)
        d.arrow((x + 52, y + 29), (x + 74, y + 29))
        d.box(x + 74, y + 8, 62, 42, operator, size=12)
        end = x + 136
        if p.outputs:
            d.arrow((end, y + 29), (end + 18, y + 29))
            d.box(end + 18, y + 12, 52, 34, "Q/DQ", kind="warm", size=11)
            end += 70
        elif number:
            d.text(end + 35, y + 20, "float", size=11, muted=True, anchor="middle")
        x = 430 if number == 0 else x
        d.arrow((end, y + 29), (x if number == 0 else 658, y + 29))
    d.box(658, y + 8, 62, 42, "Add", size=12)
    d.arrow((720, y + 29), (752, y + 29))
    d.text(758, y + 33, "ReLU", size=12)
    d.arrow((180, y + 29), (200, y + 29))
    d.box(430, y + 60, 52, 26, "Q/DQ", kind="warm", size=11)
    d.arrow((190, y + 29), (190, y + 73), (430, y + 73))
    d.arrow((482, y + 73), (689, y + 73), (689, y + 50))
    d.text(310, y + 69, "shortcut", size=11, muted=True, anchor="middle")


def placement() -> Drawing:
    """Draw where the Q/DQ pairs of a residual block are, for each placement."""
    d = Drawing(
        "placement",
        820,
        438,
        "The Q/DQ pairs of a residual block in four placements.",
        "The same block, the same ranges, four graphs. Drawn from fer_edge.quantize.placement."
        "PLACEMENTS.",
    )
    names = {
        **{"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"},
        "litert": "LiteRT",
    }
    assert set(names) == set(PLACEMENTS) - {"dla"}  # its pairs are those of the first row
    for row, (name, shown) in enumerate(names.items()):
        _placement_row(d, 8 + 108 * row, PLACEMENTS[name], shown)
        if row:
            d.line(12, 4 + 108 * row, 808, 4 + 108 * row)
    return d


def votes() -> Drawing:
    """Draw one image's ten votes beside what each kind of training learns from it."""
    d = Drawing(
        "votes",
        820,
        250,
        "An example: ten votes for one image, and what label, majority and votes teach.",
        "An invented example. FER2013 gives this image the word of the search that found it; ten "
        "people may see something else.",
    )
    seen = [("neutral", 6), ("sad", 3), ("fear", 1)]
    d.text(12, 30, "ten people look at one image", bold=True)
    for row, (name, count) in enumerate(seen):
        y = 52 + 34 * row
        d.text(12, y + 16, name)
        for k in range(count):
            d.bar(84 + 26 * k, y, 20, 20, "line" if count == 1 else "accent")
        d.text(
            90 + 26 * count,
            y + 16,
            f"{count} votes" if count > 1 else "1 vote: left out",
            size=11.5,
            muted=True,
        )
    d.text(12, 180, "FER2013's label: sad", bold=True, colour="warm")
    d.text(12, 200, "the word that was searched for", size=11.5, muted=True)
    kept = sum(count for _, count in seen if count > 1)
    rows = [
        ("loss.target = label", "sad: 1", "warm"),
        (
            "loss.target = majority",
            f"neutral: 1, since 6 of {kept} votes are more than half",
            "accent",
        ),
        ("loss.target = votes", "neutral: 6/9, sad: 3/9", "good"),
    ]
    for row, (key, value, kind) in enumerate(rows):
        d.box(400, 34 + 66 * row, 408, 54, key, value, kind=kind)
    return d


def confidence() -> Drawing:
    """Draw the coverage curve of the package's network, from its card."""
    manifest = json.loads((pretrained_path("votes") / "manifest.json").read_text(encoding="utf-8"))
    info = manifest["card"]["confidence"]
    curve = [(point["coverage"], point["accuracy"]) for point in info["curve"]]
    d = Drawing(
        "confidence",
        820,
        330,
        "Accuracy against coverage: the fewer faces it answers, the more answers are right.",
        "pretrained:votes on its held-out images of TRAIN, from the card: fer-edge inspect "
        "pretrained:votes --card. A share of votes counts as right.",
    )
    left, top, wide, high = 70.0, 24.0, 700.0, 240.0
    low = 0.7

    def place(coverage: float, accuracy: float) -> tuple[float, float]:
        return left + coverage * wide, top + (1 - accuracy) / (1 - low) * high

    for percent in (70, 80, 90, 100):
        y = place(0, percent / 100)[1]
        d.line(left, y, left + wide, y)
        d.text(left - 10, y + 4, f"{percent} %", size=12, muted=True, anchor="end")
    for percent in (0, 25, 50, 75, 100):
        d.text(
            place(percent / 100, 0)[0],
            top + high + 20,
            f"{percent} %",
            size=12,
            muted=True,
            anchor="middle",
        )
    d.text(
        left + wide / 2,
        top + high + 42,
        "coverage: the part of the faces that gets an answer",
        size=12,
        anchor="middle",
    )
    d.text(left, top - 8, "accuracy of the answers", size=12)
    d.curve([place(*point) for point in curve])
    abstain = info["abstain"]
    x, y = place(abstain["coverage"], abstain["accuracy"])
    d.line(x, y, x, top + high, "warm")
    d.bar(x - 4, y - 4, 8, 8, "warm")
    d.text(
        x - 12,
        y + 36,
        f"threshold {abstain['threshold']:.2f}: {abstain['coverage']:.1%} answered, "
        f"{abstain['accuracy']:.1%} of them right",
        size=12,
        anchor="end",
        colour="warm",
    )
    return d


def numbers() -> Drawing:
    """Draw the interleaved repeats, and how many samples a percentile needs."""
    d = Drawing(
        "numbers",
        820,
        290,
        "Backends are timed in turns; a percentile needs enough samples.",
        "A slow minute of the machine meets every backend, not one of them.",
    )
    kinds = [("null", "soft"), ("pytorch", "box"), ("onnxruntime", "accent"), ("openvino", "good")]
    d.text(12, 28, "repeat 1", bold=True)
    d.text(280, 28, "repeat 2", bold=True)
    d.text(548, 28, "... repeat 5", bold=True)
    for repeat in range(3):
        for row, (_, kind) in enumerate(kinds):
            d.box(12 + 268 * repeat + 62 * row, 40, 56, 44, kind=kind)
    for row, (name, kind) in enumerate(kinds):
        d.box(12 + 150 * row, 98, 18, 18, kind=kind)
        d.text(36 + 150 * row, 112, name, size=12)
    d.text(628, 112, "ten seconds each", size=12, muted=True)
    d.text(12, 158, "A percentile is printed only from so many samples on:", bold=True)
    for row, q in enumerate((50, 90, 95, 99, 99.9)):
        count = "always" if q == 50 else f"{min_samples(q):,}"
        d.box(12 + 162 * row, 172, 146, 50, f"p{q:g}", count)
    d.text(
        12,
        256,
        "No outlier is removed. A coefficient of variation above 2.5 % is marked UNSTABLE.",
        size=12,
    )
    d.text(12, 276, "The null backend does nothing: its time is the harness's own.", size=12)
    return d


def flow() -> Drawing:
    """Draw the way from FER2013 to an answer."""
    d = Drawing(
        "flow",
        820,
        150,
        "FER2013, train, build, gate, bundle; then predict, bench and other runtimes.",
    )
    steps = [
        ("FER2013", "zip, CSV, folders", "soft"),
        ("train", "a run", "box"),
        ("build", "FP32, FP16, INT8", "box"),
        ("gate", "the same images", "warm"),
        ("bundle", "digests, proof", "accent"),
    ]
    for row, (name, what, kind) in enumerate(steps):
        x = 8 + 164 * row
        d.box(x, 20, 138, 52, name, what, kind=kind)
        if row:
            d.arrow((x - 26, 46), (x, 46))
    d.box(500, 100, 312, 40, "Classifier, predict, C++, Triton, DeepStream", kind="good", size=12.5)
    d.arrow((733, 72), (733, 100), kind="good")
    return d


PICTURES: dict[str, Callable[[], Drawing]] = {
    "bundle": bundle,
    "calibration": calibration,
    "confidence": confidence,
    "flow": flow,
    "gate": gate,
    "layers": layers.picture,
    "numbers": numbers,
    "placement": placement,
    "votes": votes,
}
"""Name -> what draws it; a page shows it with ``<!-- picture: NAME -->``."""
