"""What a bundle tells its user about the network: data, protocol, results, limits, licence.

Mitchell et al. 2019, "Model Cards for Model Reporting" (arXiv 1810.03993). Every number comes from
what was measured: verifications in the bundle's ``verify.json``, and what the weights record.
``fer_edge.report.card`` renders it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from fer_edge.data.resplit import resplit_label
from fer_edge.data.splits import OFFICIAL_COUNTS, Split
from fer_edge.emotions import EMOTIONS
from fer_edge.labels import FER2013, FERPLUS
from fer_edge.provenance import DatasetInfo, WeightsInfo
from fer_edge.records import plain, to_dict

__all__ = ["foreign_card", "int8_lines", "measured_results", "model_card"]

_SYNTHETIC = (
    "synthetic faces drawn by a program: it shows that the tool chain works, and has seen no real "
    "face"
)
_VOTES = (
    "FER+ (Barsoum et al. 2016): ten people looked at each image of FER2013; the network learnt "
    "their votes, not FER2013's own labels"
)
_FER2013 = (
    "FER2013: images collected from the web, cropped, 48x48 gray, labelled by people who "
    "agree with each other on about two of three"
)
_RELABELLED = (
    "the labels are not FER2013's own, so its scores cannot be compared with those of others"
)
_NO_FEELING = "it names the expression that people would see, not what a person feels"
_ONE_VIEW = "scored on one view of each image at batch 1, by the same call as in an application"
_LICENCE = "Apache-2.0 for code; the weights are their maker's, by the licence of the images"
_SCORES = ("top1", "top1_without_duplicates", "n_without_duplicates", "macro_f1", "ece")


def model_card(
    *,
    synthetic: bool,
    weights: WeightsInfo | None = None,
    results: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the card of a network trained by this package.

    ``weights`` is what its weights file records; ``results`` comes from
    :func:`measured_results`. For a network from elsewhere see :func:`foreign_card`.
    """
    made = weights or WeightsInfo()
    recipe = made.recipe or {}
    recorded = to_dict(made)
    own = made.dataset.labels not in (FER2013.names, FERPLUS.names)
    return {
        "licence": _LICENCE
        if own
        else "Apache-2.0 for code and weights; FER2013's images are for research",
        "intended_use": "research and prototypes that react to the expression shown on a face",
        "limits": [
            f"trained on {_trained_on(made.dataset, synthetic)}",
            *([_VOTES] if made.by_votes else []),
            *([_RELABELLED] if made.dataset.relabelled else []),
            _NO_FEELING,
            "it takes a crop of one upright face; for any other picture it also gives an answer",
            f"accuracy differs between {'classes' if own else 'emotions'} (see per-class recall) "
            f"and between groups of people, which {'the labels do' if own else 'FER2013 does'} not "
            f"{'name' if own else 'label'} and this package therefore cannot measure",
            "not for decisions about people: hiring, education, policing, health, borders",
        ],
        **({} if synthetic or own else {"biases": _biases(made)}),
        "data": to_dict(made.dataset),
        "protocol": _protocol(made),
        "training": {
            **{key: recipe[key] for key in ("epochs", "seed") if key in recipe},
            **{
                key: recorded[key]
                for key in ("epoch", "fer_edge", "teachers", "soup")
                if key in recorded
            },
            "recipe": recipe,
        },
        "results": [dict(each) for each in results],
        "confidence": plain(made.confidence),
        **({} if made.prior is None else {"prior": plain(made.prior)}),
    }


def int8_lines(gates: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how each INT8 graph was chosen, and on which images, from the gates of a manifest.

    Gates of earlier versions do not record it, and get no line.
    """
    lines = []
    for gate in gates:
        choice = gate.get("choice")
        if gate.get("precision") != "int8" or not choice:
            continue
        images = choice["images"]
        half = choice.get("half", "none")
        kept = (
            "FP32" if str(gate.get("variant", "")).endswith("fp32-remainder") else "half precision"
        )
        early = "" if half == "none" else f", early layers in {kept} ({half})"
        split = str(gate.get("split") or "public").upper()
        lines.append(
            f"INT8 for {gate['target']}{_named(gate)}: {choice['method']} calibration, "
            f"{choice['rounding']} rounding{early}; chosen by KL divergence and flips against FP32 "
            f"on {images['count']:,} images of {images['images']} ({images['held_out']:,} of them "
            f"held out from training), without labels; {split} judged it once"
        )
    return lines


def _named(gate: Mapping[str, Any]) -> str:
    variant = gate.get("variant")
    return f" ({variant})" if variant else ""


def foreign_card(
    results: Sequence[Mapping[str, Any]] = (), assumed: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the card of a graph that this package did not train: most of it is unknown.

    ``assumed`` has what neither the graph nor the user said; None if nothing is known of that.
    """
    unsaid = f"assumed, since nothing said it: {', '.join(assumed or ())}"
    if assumed is None:
        unsaid = "the classes are assumed to be FER2013's, in FER2013's order"
    return {
        "licence": "unknown: the graph was not made by fer-edge",
        "intended_use": "unknown",
        "limits": [
            "training data and training are unknown",
            _NO_FEELING,
            *([unsaid] if assumed is None or assumed else []),
        ],
        "protocol": [_ONE_VIEW],
        "results": [dict(each) for each in results],
    }


def _trained_on(dataset: DatasetInfo, synthetic: bool) -> str:
    if synthetic:
        return _SYNTHETIC
    if dataset.labels in (FER2013.names, FERPLUS.names):
        return _FER2013
    names = ", ".join(dataset.labels)
    return f"{dataset.source}, with the classes {names}; this package knows nothing else of it"


def measured_results(
    verifications: Sequence[Mapping[str, Any]], artifacts: Collection[str]
) -> list[dict[str, Any]]:
    """Return the scores of each engine and its reference, from ``Verification.to_dict()`` results.

    Verifications of files whose SHA-256 is not among ``artifacts`` are of another network.
    Accuracies are fractions; ``recall`` has n and recall of each emotion. ``labels`` is "votes"
    where the majority of FER+'s votes judged, and ``votes`` then has those scores.
    """
    found: list[dict[str, Any]] = []
    references: set[tuple[str, str | None, str]] = set()
    for each in verifications:
        if each["engine"]["artifact_sha256"] not in artifacts:
            continue
        labels = each["dataset"].get("labels")
        reference = (each["split"], labels, each["reference"]["artifact_sha256"])
        if reference not in references:
            references.add(reference)
            found.append(_result(each, "reference"))
        found.append(
            {
                **_result(each, "engine"),
                "flips": each["flips"],
                "delta_top1": each["delta_top1"],
            }
        )
    return found


def _result(verification: Mapping[str, Any], which: str) -> dict[str, Any]:
    side = verification[which]
    return {
        "split": verification["split"],
        "dataset": verification["dataset"]["source"],
        "synthetic": verification["dataset"]["synthetic"],
        "backend": side["backend"],
        "precision": side["precision"],
        "artifact": side["artifact"],
        "n": side["n"],
        **{name: side[name] for name in _SCORES},
        "recall": {
            emotion: {"n": score["n"], "recall": score["recall"]}
            for emotion, score in side["per_class"].items()
        },
        **({"labels": "votes", "votes": _voted(side["votes"])} if "votes" in side else {}),
    }


def _voted(scores: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("mean_recall", "n_winner", "winner", "n", "share", "kl", "ece", "ceiling")
    return {name: scores[name] for name in kept}


def _biases(made: WeightsInfo) -> list[str]:
    return [
        *(_biases_of_votes(made) if made.by_votes else _biases_of_labels()),
        "web images: found by an image search for emotion words in English, so prototypical and "
        "posed expressions (actors, stock photographs) are over-represented",
        "age, gender, skin colour and culture of the people are not recorded, so it is unknown how "
        "accuracy differs by them",
        "near and exact duplicates across splits: see the results without TRAIN's duplicates",
    ]


def _biases_of_labels() -> list[str]:
    counts = OFFICIAL_COUNTS[Split.TRAIN]
    total = sum(counts)
    most, least = (pick(range(7), key=counts.__getitem__) for pick in (max, min))
    return [
        "label noise: people reach 65 +- 5 % on FER2013 (Goodfellow et al. 2013, arXiv 1307.0414); "
        "identical images carry different labels",
        f"class imbalance: {counts[most]:,} of {total:,} TRAIN images are {EMOTIONS[most]} "
        f"({counts[most] / total:.0%}), {counts[least]:,} are {EMOTIONS[least]} "
        f"({counts[least] / total:.1%}), so that its recall is measured on few images",
    ]


def _biases_of_votes(made: WeightsInfo) -> list[str]:
    lines = [
        "label noise: ten people voted on each image, and they often disagree; see how often one "
        "person agrees with the majority of the others in the scores by votes"
    ]
    if made.prior is not None:
        shares = made.prior.shares
        most, least = (pick(shares, key=shares.__getitem__) for pick in (max, min))
        lines.append(
            f"class imbalance: of the votes for TRAIN's images {shares[most]:.0%} are for {most} "
            f"and {shares[least]:.1%} for {least}, so that its recall is measured on few images"
        )
    return lines


def _fitted_on(made: WeightsInfo) -> str:
    options = ((made.recipe or {}).get("model") or {}).get("options") or {}
    if made.teachers:
        learnt = "the votes of FER+" if made.by_votes else "its labels"
        names = ", ".join(dict.fromkeys(teacher.name for teacher in made.teachers))
        return f"fitted on TRAIN alone, {learnt} and the answers of teachers ({names})"
    if options.get("pretrained"):
        return "fitted on TRAIN alone, from weights that others had trained (ImageNet)"
    if made.by_votes:
        return "fitted on TRAIN alone, to the votes of FER+ for its images"
    return "fitted on TRAIN alone; no other data and no weights of others"


def _protocol(made: WeightsInfo) -> list[str]:
    recipe = made.recipe or {}
    lines = [_fitted_on(made)]
    resplit = resplit_label(made.dataset)
    if resplit:
        lines.append(
            f"TRAIN, PUBLIC and PRIVATE are parts of its own {resplit}, of the official TRAIN and "
            "PUBLIC: its scores are not those of the official split"
        )
    held_out = made.holdout
    if held_out is not None:
        use = "temperature, prior" if made.prior else "temperature"
        line = (
            f"{held_out[0]:.0%} of TRAIN was held out (seed {held_out[1]}, identical images on "
            f"one side), for {use} and abstain threshold alone"
        )
        fitted = [
            teacher.name
            for teacher in made.teachers
            if (teacher.holdout, teacher.holdout_seed) != held_out
        ]
        if fitted:
            line += f"; but teachers were fitted to it: {', '.join(dict.fromkeys(fitted))}"
        lines.append(line)
    epoch, epochs = made.epoch, recipe.get("epochs")
    if made.soup:
        names = ", ".join(run.name for run in made.soup)
        lines.append(f"weights are the mean of {len(made.soup)} runs' last epochs: {names}")
    elif epoch and epoch == epochs:
        lines.append(f"weights of the last of {epochs} epochs: none was picked by its score")
    elif epoch:
        lines.append(f"weights of epoch {epoch} of {epochs}")
    decay = (recipe.get("ema") or {}).get("decay")
    if decay:
        lines.append(f"the weights are an exponential moving average (decay {decay:g})")
    lines += [
        "recipes were chosen by their score on "
        f"PUBLIC{'' if resplit else ' (PublicTest)'}, so that "
        "score is somewhat optimistic; "
        f"PRIVATE{'' if resplit else ' (PrivateTest)'} had no part in "
        "training or choosing",
        _ONE_VIEW,
    ]
    return lines
