"""``fer-edge confidence``: fit a run's confidence on its held-out images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fer_edge.cli.shared.names import found
from fer_edge.cli.shared.options import (
    classes_option,
    data_option,
    format_option,
    runs_option,
    votes_option,
)
from fer_edge.cli.shared.output import note, print_json, print_rows, terminal_reporter

__all__ = ["command"]


@click.command()
@click.argument("run", required=False)
@runs_option
@data_option
@votes_option
@classes_option
@click.option(
    "--accuracy",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.8,
    show_default=True,
    help="The accuracy that the answers above the abstain threshold must reach.",
)
@click.option(
    "--prior",
    metavar="natural|balanced|auto|TAU",
    help="First correct how much the network favours frequent classes: 0 (natural) to 1 "
    "(balanced); auto takes what gains most recall for one point of accuracy. Prints accuracy and "
    "recall for several strengths.",
)
@format_option
def command(
    run: str | None,
    root: Path,
    data: str | None,
    votes: Path | None,
    classes: str | None,
    accuracy: float,
    prior: str | None,
    fmt: str,
) -> None:
    """Fit the confidence of RUN (by default the newest): temperature and abstain threshold.

    Both are fitted on the part of TRAIN that the run held out (`fer-edge train --set
    data.holdout=0.05`). PUBLIC is only used to score them. The temperature is folded into the
    weights (RUN/confidence.safetensors), which `fer-edge build` then uses. Engines need no extra
    computation.

    \b
    Example:
      fer-edge confidence runs/mine --data fer2013.zip
      fer-edge confidence runs/mine --data fer2013.zip --accuracy 0.9 --format json
    """
    from fer_edge.build.confidence import fit_confidence
    from fer_edge.data import load, resolve_source
    from fer_edge.data.classes import classes_as_recorded
    from fer_edge.models.header import read_header
    from fer_edge.runs.find import A_RUN
    from fer_edge.runs.folder import CONFIDENCE_WEIGHTS

    folder = found(run, root, A_RUN).path
    with terminal_reporter() as reporter:
        described = read_header(folder / "model.safetensors").info.dataset
        choice = classes_as_recorded(described, classes, str(folder))
        dataset = load(resolve_source(data), classes=choice, reporter=reporter)
        fitted = fit_confidence(
            folder, dataset, accuracy=accuracy, prior=prior, votes=votes, reporter=reporter
        )
    if fmt != "json" and "prior" in fitted:
        _print_prior(fitted["prior"], fmt)
    _print(folder, fitted, fmt)
    abstain = fitted["abstain"]
    if abstain is None:
        note(
            f"note: no threshold reaches an accuracy of {accuracy:.0%}, "
            "so the bundle will have no abstain threshold"
        )
    if fitted["at_bound"]:
        note(
            f"note: the temperature is at its bound, {fitted['temperature']:g}: "
            "the held-out images are not enough to fit it"
        )
    if dataset.synthetic:
        note("note: fitted on synthetic faces, so it is not valid for real faces")
    note(f"written: {folder / CONFIDENCE_WEIGHTS}")
    note(f"next: fer-edge build {folder}")


def _print(folder: Path, fitted: dict[str, Any], fmt: str) -> None:
    if fmt == "json":
        print_json(fitted)
        return
    before_after = [
        ("NLL", "nll_before", "nll_after"),
        ("ECE", "ece_before", "ece_after"),
    ]
    exact = fmt == "csv"
    rows = []
    for images, scores in (("held-out TRAIN", fitted), ("PUBLIC", fitted["public"])):
        abstain = scores["abstain"]
        rows.append(
            {
                "images": images,
                "n": scores["n"],
                "top1": _shown(scores["top1"], exact),
                **{
                    f"{name} {when}": _shown(scores[key], exact, ".4f")
                    for name, *keys in before_after
                    for when, key in zip(("before", "after"), keys, strict=True)
                },
                "coverage": _shown(abstain["coverage"] if abstain else None, exact),
                "accuracy": _shown(abstain["accuracy"] if abstain else None, exact),
            }
        )
    threshold = fitted["abstain"]["threshold"] if fitted["abstain"] else None
    advice = "no abstain threshold" if threshold is None else f"abstain below {threshold:.3f}"
    title = f"{folder}: temperature {fitted['temperature']:.4f}, {advice}"
    print_rows(
        rows,
        fmt,
        title=title,
        caption="NLL: negative log-likelihood in nats; ECE: expected calibration error\n"
        "coverage: images answered, not abstained; accuracy: right answers among them",
    )


def _print_prior(prior: dict[str, Any], fmt: str) -> None:
    exact = fmt == "csv"
    rows = [
        {
            "prior": point["tau"] if exact else f"{point['tau']:g}",
            "accuracy": _shown(point["accuracy"], exact),
            "mean recall": _shown(point["mean_recall"], exact),
            **{name: _shown(value, exact) for name, value in point["recall"].items()},
        }
        for point in prior["curve"]
    ]
    print_rows(
        rows,
        fmt,
        title=f"{prior['held_out']:,} held-out images of TRAIN; taken: {prior['tau']:g} "
        f"({prior['choice']})",
        caption="prior: 0 natural, 1 balanced; the emotions: recall",
    )


def _shown(value: float | None, exact: bool, form: str = ".2%") -> Any:
    return value if exact or value is None else format(value, form)
