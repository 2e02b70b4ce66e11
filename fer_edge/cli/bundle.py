"""``fer-edge bundle``: a bundle as one file, and as what other servers want."""

from __future__ import annotations

from pathlib import Path

import click

from fer_edge.cli._names import open_bundle
from fer_edge.cli._options import runs_option
from fer_edge.cli._output import note, print_text

__all__ = ["command"]

_OUT = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Copy a bundle as one file, or write what Triton or DeepStream serve it from.

    \b
    Example:
      fer-edge bundle pack runs/mine/bundle -o faces.fer
      fer-edge bundle unpack faces.fer -o bundles/faces
      fer-edge bundle triton -o model_repository
      fer-edge bundle deepstream -o deepstream --detector-id 1 --face-class 0
    """


@command.command()
@click.argument("bundle", required=False)
@runs_option
@click.option("-o", "--out", type=_OUT, help="The file to write. Default: the bundle's name.fer.")
def pack(bundle: str | None, root: Path, out: Path | None) -> None:
    """Write BUNDLE (by default the pretrained one) as one file, after a check of every byte.

    Equal bundles give equal files. Plans that were built into the bundle go along; files that its
    manifest does not list stay.

    \b
    Example:
      fer-edge bundle pack runs/mine/bundle -o faces.fer
    """
    from fer_edge.bundle.packing import SUFFIX, pack_bundle

    opened = open_bundle(bundle, root)
    packed = pack_bundle(opened, out or Path(opened.manifest.name.replace("/", "_") + SUFFIX))
    for name in packed.left_out:
        note(f"left out, not in the manifest: {name}")
    note(f"{packed.files} files, {packed.size / 1e6:.1f} MB")
    print_text(str(packed.path))


@command.command()
@click.argument("archive", type=_OUT)
@click.option("-o", "--out", type=_OUT, help="The folder to make. Default: ARCHIVE's name.")
@click.option("--replace", is_flag=True, help="Take the place of a bundle that is there.")
def unpack(archive: Path, out: Path | None, replace: bool) -> None:
    """Unpack ARCHIVE, which `fer-edge bundle pack` wrote, into a new folder.

    Every byte is checked before the folder appears. If anything is wrong (exit code 6), nothing is
    left behind.

    \b
    Example:
      fer-edge bundle unpack faces.fer -o bundles/faces
    """
    from fer_edge.bundle.packing import SUFFIX, unpack_bundle
    from fer_edge.errors import UsageError

    if out is None:
        if archive.suffix != SUFFIX:
            raise UsageError(f"{archive} does not end in {SUFFIX}", fix="name a folder with -o")
        out = Path(archive.stem)
    bundle = unpack_bundle(archive, out, replace=replace)
    note(f"{len(bundle.manifest.artifacts)} files, all as the manifest says")
    note(f"next: fer-edge inspect {out}")
    print_text(str(out))


@command.command()
@click.argument("bundle", required=False)
@runs_option
@click.option("-o", "--out", type=_OUT, required=True, help="The model repository.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="Default: for each model the best whose gate has not failed (int8, fp16, fp32).",
)
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Of the ONNX model; a plan has its own.",
)
@click.option("--replace", is_flag=True, help="Take the place of models of the same name.")
def triton(
    bundle: str | None,
    root: Path,
    out: Path,
    precision: str | None,
    max_batch: int,
    replace: bool,
) -> None:
    """Write a model repository of Triton Inference Server: an ONNX model, and its TensorRT plans.

    The models take pixels, uint8 [1,48,48] each, and give logits; Triton batches requests. Plans
    are there if `fer-edge build --target tensorrt` built them into BUNDLE.

    \b
    Example:
      fer-edge bundle triton runs/mine/bundle -o model_repository
      tritonserver --model-repository=model_repository
    """
    from fer_edge.deploy.triton import triton_from_bundle

    opened = open_bundle(bundle, root)
    models = triton_from_bundle(
        opened, out, precision=precision, max_batch=max_batch, replace=replace
    )
    for model in models:
        note(f"{model.name}: {model.backend}, {model.precision}, from {', '.join(model.sources)}")
        for line in model.notes:
            note(f"  {line}")
    if len(models) == 1:
        note("no TensorRT model: the bundle has no plan (fer-edge build --target tensorrt)")
    note(f"next: tritonserver --model-repository={out}")
    for model in models:
        print_text(str(model.folder))


@command.command()
@click.argument("bundle", required=False)
@runs_option
@click.option("-o", "--out", type=_OUT, required=True, help="The folder to make.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp16",
    show_default=True,
    help="Of the engine that nvinfer runs.",
)
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.5,
    show_default=True,
    help="Below this probability a face gets no label.",
)
@click.option(
    "--detector-id",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="gie-unique-id of the face detector.",
)
@click.option(
    "--face-class",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The detector's class that is a face.",
)
@click.option(
    "--luma",
    type=click.Choice(["full", "video"]),
    default="full",
    show_default=True,
    help="The range of the video's luma: 0..255, or 16..235.",
)
@click.option("--replace", is_flag=True, help="Take the place of such a folder that is there.")
def deepstream(
    bundle: str | None,
    root: Path,
    out: Path,
    precision: str,
    batch: int,
    threshold: float,
    detector_id: int,
    face_class: int,
    luma: str,
    replace: bool,
) -> None:
    """Write nvinfer's configuration, labels and graph for a secondary classifier of DeepStream.

    nvinfer normalises pixels itself, so the graph comes without its normalisation (and with a
    Softmax at its end), and the scale factor and offset stand in the configuration. Needs
    fer-edge[build].

    \b
    Example:
      fer-edge bundle deepstream runs/mine/bundle -o deepstream --detector-id 1 --face-class 0
    """
    from fer_edge.deploy.deepstream import CONFIG, deepstream_from_bundle

    opened = open_bundle(bundle, root)
    settings = deepstream_from_bundle(
        opened,
        out,
        precision=precision,
        batch=batch,
        threshold=threshold,
        detector_id=detector_id,
        face_class=face_class,
        luma="video" if luma == "video" else "full",
        replace=replace,
    )
    factor, offset = settings["net-scale-factor"], settings["offsets"]
    note(f"{settings['onnx-file']}: y = {factor} * (x - {offset}), compared on the golden images")
    note(f"next: give {out / CONFIG} to a secondary nvinfer; {out / 'README.md'} says how")
    print_text(str(out))
