"""The figure and the table of a result of ``frontier.py``.

Both show three kinds of accuracy: measured by this repository, published by others, none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fer_edge.measure.environment import machine_of
from fer_edge.report.canvas import INK, LINES, MUTED, OTHER, new_figure, quiet, save_figure
from fer_edge.report.rows import markdown_table

PICTURE, TABLE = "frontier.png", "frontier.md"

OURS, TRAINED, PUBLISHED = LINES[1], LINES[0], "#4d4d4d"

Row = Mapping[str, Any]


def networks(result: Mapping[str, Any]) -> list[dict[str, Row]]:
    """Return the rows per network, ``{precision: row}``, the fastest INT8 (or FP32) first."""
    found: dict[tuple[str, int], dict[str, Row]] = {}
    for row in result["rows"]:
        if row["name"] != "null":
            found.setdefault((row["name"], row["size"]), {})[row["precision"]] = row
    return sorted(found.values(), key=fastest)


def fastest(network: Mapping[str, Row]) -> float:
    """Return the lowest p50 of a network's precisions, in ms; 1e99 if none ran."""
    return min((row["p50_ms"] for row in network.values() if row.get("p50_ms")), default=1e99)


# -- the figure ------------------------------------------------------------------------------------


def draw(result: Mapping[str, Any], path: Path) -> Path:
    """Draw accuracy against p50 (log scale), with one line per network from FP32 to INT8."""
    figure = new_figure(9.5, 6.6)
    axes = figure.add_subplot()
    without = []
    labels: list[tuple[float, float, str, str]] = []
    for network in networks(result):
        if fastest(network) > 1e9:
            continue
        points = list(_points(network))
        if not points:
            without.append(network)
            continue
        for kind, colour, line in points:
            _draw_line(axes, line, kind, colour)
        if len(points) == 2:  # measured and published: two accuracies of one network
            ends = [next(p for p in line if p[2] == "fp32")[:2] for _, _, line in points]
            axes.plot(*zip(*ends), ":", color=OTHER, lw=1, zorder=1)
        _, colour, line = points[0]
        labels.append((*min(line)[:2], _label(network), colour))
    low, high = _limits(axes.dataLim.y0, axes.dataLim.y1)
    axes.set(ylim=(low, high), xscale="log")
    _write(axes, labels, high - low)
    _draw_ticks(axes, without)
    _legend(axes, result)
    axes.set_xlabel("p50 of one image, ms (ONNX Runtime, batch 1, log scale)")
    axes.set_ylabel("top-1 on FER2013, %")
    _plain(axes)
    quiet(axes, grid="both")
    axes.set_title(_title(result), fontsize=9, color=MUTED, loc="left")
    return save_figure(figure, path)


def _points(
    network: Mapping[str, Row],
) -> Iterable[tuple[str, str, list[tuple[float, float, str]]]]:
    """Yield (kind, colour, [(p50, top-1 in %, precision)]), for measured and published ones."""
    ran = {name: row for name, row in network.items() if row.get("p50_ms")}
    measured = [
        (row["p50_ms"], 100 * row["measured"]["top1"], name)
        for name, row in ran.items()
        if row.get("measured")
    ]
    ours = any(row["ours"] for row in ran.values())
    if measured:
        yield ("ours" if ours else "trained"), (OURS if ours else TRAINED), measured
    published = next((row["published"] for row in ran.values() if row.get("published")), None)
    if published:
        # The published accuracy is of FP32; that of INT8 was not measured.
        top1 = 100 * published["top1"]
        shown = [name for name in ran if name == "fp32" or not measured]
        yield "published", PUBLISHED, [(ran[name]["p50_ms"], top1, name) for name in shown]


def _draw_line(axes: Any, line: list[tuple[float, float, str]], kind: str, colour: str) -> None:
    if len(line) > 1:
        style = ":" if kind == "published" else "-"
        axes.plot([p[0] for p in line], [p[1] for p in line], style, color=colour, lw=1, alpha=0.6)
    for x, y, precision in line:
        marker = {"fp32": "o", "int8": "D"}[precision]
        size = {"ours": 110, "trained": 42, "published": 34}[kind]
        if kind == "published" and precision == "int8":
            axes.scatter([x], [y], s=60, marker="|", color=colour, linewidths=1.4, zorder=3)
            continue
        face = "white" if kind == "published" else colour
        axes.scatter([x], [y], s=size, marker=marker, facecolor=face, edgecolor=colour, zorder=4)


def _draw_ticks(axes: Any, networks_without: list[dict[str, Row]]) -> None:
    """Draw the latency of networks that have no accuracy as ticks above the time axis."""
    transform = axes.get_xaxis_transform()
    for at, network in enumerate(networks_without):
        height = 0.025 + 0.045 * (at % 4)
        times = sorted(row["p50_ms"] for row in network.values() if row.get("p50_ms"))
        axes.plot(times, [height] * len(times), "-", color=OTHER, lw=1, transform=transform)
        axes.plot(times, [height] * len(times), "|", color=MUTED, ms=7, transform=transform)
        axes.text(
            times[-1] * 1.06,
            height,
            f"{_label(network)}: no accuracy on FER2013",
            fontsize=7,
            color=MUTED,
            va="center",
            transform=transform,
        )


def _write(axes: Any, labels: list[tuple[float, float, str, str]], height: float) -> None:
    """Write names to the left of their points; move a name down if two would overlap."""
    step = height / 38
    taken: list[tuple[float, float]] = []
    for x, y, text, colour in sorted(labels, key=lambda label: -label[1]):
        at = y
        while any(abs(at - other) < step and 1 / 4 < x / near < 4 for near, other in taken):
            at -= step / 4
        taken.append((x, at))
        axes.annotate(
            text,
            (x, y),
            xytext=(x * (0.86 if colour == OURS else 0.9), at),
            fontsize=9 if colour == OURS else 7.5,
            fontweight="bold" if colour == OURS else "normal",
            color=INK if colour == OURS else colour,
            ha="right",
            va="center",
            arrowprops={"arrowstyle": "-", "color": OTHER, "lw": 0.5} if at != y else None,
        )


def _label(network: Mapping[str, Row]) -> str:
    row = next(iter(network.values()))
    return str(row["name"]) + ("" if row["size"] == 48 else f" {row['size']}px")


def _limits(low: float, high: float) -> tuple[float, float]:
    if low > high:  # no accuracy at all
        low, high = 50.0, 75.0
    margin = max(1.0, 0.06 * (high - low))
    return low - 5 * margin, high + margin  # room below for the ticks


def _plain(axes: Any) -> None:
    """Label the time axis with 0.2, 1, 50 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    axes.set_xlim(low / 2.2, high * 1.1)  # room at the left for names
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Any, result: Mapping[str, Any]) -> None:
    from matplotlib.lines import Line2D

    def entry(colour: str, marker: str, text: str, face: str | None = None) -> Any:
        return Line2D(
            [],
            [],
            color=colour,
            marker=marker,
            linestyle="",
            markerfacecolor=face or colour,
            markersize=7,
            label=text,
        )

    kinds = {kind for network in networks(result) for kind, _, _ in _points(network)}
    entries = [
        entry(INK, "o", "FP32"),
        entry(INK, "D", "INT8"),
        entry(OURS, "s", f"ours, measured: {result['bundle']['name']}"),
    ]
    if "trained" in kinds:
        entries.append(
            entry(
                TRAINED,
                "s",
                "measured; trained here by its report's recipe, or the weights of a package",
            )
        )
    if "published" in kinds:
        text = "published (FP32); the bar is where its INT8 would be in time"
        entries.append(entry(PUBLISHED, "o", text, "white"))
    axes.figure.legend(
        handles=entries, fontsize=7.5, loc="outside lower center", ncols=3, frameon=False
    )


def _title(result: Mapping[str, Any]) -> str:
    quick = "QUICK: " if result["protocol"]["quick"] else ""
    synthetic = "SYNTHETIC faces. " if _synthetic(result) else ""
    threads = result["environment"]["threads"]
    return (
        f"{quick}{synthetic}{machine_of(result['environment'])}; {threads} thread"
        f"{'s' if threads > 1 else ''}; one run, all in turns"
    )


def _synthetic(result: Mapping[str, Any]) -> bool:
    return bool(result["dataset"]["synthetic"] or result["bundle"]["synthetic"])


# -- the table -------------------------------------------------------------------------------------


def table(result: Mapping[str, Any], raw: str) -> str:
    """Return the Markdown document of a result; ``raw`` is the file of its raw nanoseconds."""
    environment, protocol = result["environment"], result["protocol"]
    ranked = networks(result)
    # "x ours" means this one.
    first: Row = next((row for row in result["rows"] if row.get("ours")), {})
    ours = next((each for each in ranked if _first(each)["name"] == first.get("name")), {})
    reference = ours.get("int8", ours.get("fp32", {})).get("p50_ms")
    lines = [
        "# Accuracy against latency",
        "",
        "Generated by `python bench/frontier.py`; do not edit.",
        "",
        "![accuracy against latency](frontier.png)",
        "",
        f"{_title(result)}. {result['created']}, fer-edge {result['fer_edge']}, ONNX Runtime "
        f"{environment['packages'].get('onnxruntime', '?')}. Batch 1, median of "
        f"{protocol['repeats']} repeats of >= {protocol['measure_s']:g} s, interleaved. "
        f"Raw nanoseconds: `results/{raw}`.",
        "",
        "Times are from u8 pixels of the network's own size to the softmax of its logits. The time "
        "to enlarge 48x48 pixels to that size is *not* included. Networks for which we have no "
        "weights have random ones, which does not change their time. INT8 graphs are made by "
        '`fer-edge`, with the same calibration images for all. "x ours" is the fastest time of '
        f"a network, divided by the time of the INT8 of {first.get('name', 'ours')}.",
        "",
    ]
    notes: dict[str, int] = {}
    heads = ["network", "input", "params", "MMAC", "FP32 p50 ms", "INT8 p50 ms", "INT8", "x ours"]
    heads += ["top-1 measured here", "top-1 published"]
    table = markdown_table(heads, [_cells(network, reference, notes) for network in ranked])
    lines += table.splitlines()
    lines += [""] + [f"{number}. {text}" for text, number in notes.items()]
    if any(" ~" in line for line in lines):
        lines += ["", "~: the coefficient of variation of this engine's times is above 10 %."]
    warnings = environment["warnings"]
    lines += ["", *[f"Warning: {text}." for text in warnings]] if warnings else []
    return "\n".join(lines).rstrip() + "\n"


def _cells(network: Mapping[str, Row], reference: float | None, notes: dict[str, int]) -> list[str]:
    first = _first(network)
    fp32, int8 = network.get("fp32", {}), network.get("int8", {})
    times = [row.get("p50_ms") for row in (fp32, int8)]
    speedup = f"{times[0] / times[1]:.2f}x" if times[0] and times[1] else "-"
    share = fastest(network) / reference if reference else None
    return [
        f"**{first['name']}**" if first["ours"] else first["name"],
        f"{first['channels']}x{first['size']}x{first['size']}",
        _count(first["parameters"]),
        "-" if first["macs"] is None else f"{first['macs'] / 1e6:,.0f}",
        *[_time(row, notes) for row in (fp32, int8)],
        speedup,
        "-" if share is None or share > 1e9 else f"{share:.1f}",
        _measured(fp32, int8, notes),
        _published(first, notes),
    ]


def _first(network: Mapping[str, Row]) -> Row:
    return next(iter(network.values()))


def _time(row: Row, notes: dict[str, int]) -> str:
    note = _mark(row.get("note", ""), notes)
    if not row.get("p50_ms"):
        return f"-{note}"
    unstable = " ~" if (row.get("cv") or 0) > 0.1 else ""
    value = row["p50_ms"]
    digits = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{digits}f}{unstable}{note}"


def _measured(fp32: Row, int8: Row, notes: dict[str, int]) -> str:
    cells = []
    for name, row in (("FP32", fp32), ("INT8", int8)):
        found = row.get("measured")
        if found:
            text = f"{found['split']}, n = {found['n']:,}, from {found['from']}"
            drawn = "SYNTHETIC " if found["synthetic"] else ""
            cells.append(f"{drawn}{name} {100 * found['top1']:.2f}{_mark(text, notes)}")
    return ", ".join(cells) or "-"


def _published(row: Row, notes: dict[str, int]) -> str:
    found = row.get("published")
    if not found:
        return "-"
    return f"{100 * found['top1']:.2f}{_mark(found['reference'], notes)}"


def _count(parameters: int | None) -> str:
    return "-" if parameters is None else f"{parameters / 1e6:.2f}M"


def _mark(text: str, notes: dict[str, int]) -> str:
    """Return the number of a note below the table; equal notes have one number."""
    if not text:
        return ""
    return f" ({notes.setdefault(' '.join(text.split()), len(notes) + 1)})"
