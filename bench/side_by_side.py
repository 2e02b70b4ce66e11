"""Join compact networks side by side: one wider network that answers with the mean of their logits.

    python bench/side_by_side.py pretrained:fer2013 runs/votes-labels -o both.safetensors
    fer-edge train --recipe large --init both.safetensors --teacher pretrained:fer2013 --name large

Networks are runs, weights files and bundles, fitted to the same images of TRAIN. The file has no
training of its own: it records the data and the recipe of the first network. Training it connects
the two (fer_edge.models.growing).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
from failure import told
from torch import Tensor

from fer_edge.bundle import Bundle
from fer_edge.convert.checkpoint import weights_from_bundle
from fer_edge.data import FerDataset, load, resolve_source
from fer_edge.data.fitted import require_fitted_to
from fer_edge.errors import FerEdgeError, UsageError
from fer_edge.files import temporary_folder
from fer_edge.models import ModelSpec, build_model
from fer_edge.models.compact import CompactOptions
from fer_edge.models.growing import side_by_side
from fer_edge.models.options import options_from_mapping
from fer_edge.models.weights import Weights, load_weights, save_weights
from fer_edge.provenance import WeightsInfo
from fer_edge.runs.find import A_NETWORK, find


def opened(name: str, dataset: FerDataset, folder: Path) -> Weights:
    """Return the weights of a run, a file or a bundle, whose norms come from TRAIN's images."""
    found = find(name, wants=A_NETWORK)
    if found.kind != "bundle":
        weights = load_weights(found.weights)
    else:
        bundle = Bundle.open(found.path)
        out = folder / f"{bundle.manifest.sha256}.safetensors"
        weights_from_bundle(bundle, dataset.select("train").images, out)
        weights = load_weights(out)
    require_fitted_to(
        dataset,
        weights.info.dataset.sha256,
        name,
        fix="give networks that were trained with this data and --split",
    )
    return weights


def joined(
    names: Sequence[str], networks: Sequence[Weights]
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """Return the wider network and its state; UsageError for networks that cannot be joined."""
    spec = networks[0].spec
    kinds = {(each.spec.name, each.labels, each.info.holdout) for each in networks}
    if spec.name == "compact" and len(kinds) == 1 and len(networks) > 1:
        options = [
            options_from_mapping(CompactOptions, spec.name, each.spec.options) for each in networks
        ]
        if len({msgspec.structs.replace(each, widths=()) for each in options}) == 1:
            widths = [sum(sizes) for sizes in zip(*(each.widths for each in options), strict=True)]
            spec = replace(spec, options={**spec.options, "widths": widths})
            fresh = build_model(spec).state_dict()
            return spec, side_by_side([each.state for each in networks], fresh)
    raise UsageError(
        f"{', '.join(names)}: these networks cannot be joined",
        fix="give two or more compact networks that differ in nothing but their widths, and that "
        "held out the same part of TRAIN",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Write the joint network; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("networks", nargs="+", help="runs, weights files, bundles")
    parser.add_argument("-o", "--output", type=Path, required=True, help="a .safetensors file")
    parser.add_argument("--data", help="FER2013  [FER_EDGE_DATA]")
    options = parser.parse_args(argv)
    try:
        dataset = load(resolve_source(options.data))
        with temporary_folder("joined") as folder:
            networks = [opened(name, dataset, folder) for name in options.networks]
        spec, state = joined(options.networks, networks)
        first = networks[0]
        info = WeightsInfo(dataset=first.info.dataset, recipe=first.info.recipe)
        save_weights(options.output, state, spec, first.preprocessing, info)
    except FerEdgeError as error:
        return told(error)
    sys.stdout.write(f"{options.output}: {spec.name} {dict(spec.options)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
