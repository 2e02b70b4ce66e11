"""``fer-edge bundle``: a bundle as one file, or as a folder for Triton or DeepStream."""

from __future__ import annotations

import re
from pathlib import Path

import click

from fer_edge.cli.shared.names import open_bundle
from fer_edge.cli.shared.options import runs_option
from fer_edge.cli.shared.output import note, print_text
from fer_edge.printable import one_line

__all__ = ["command"]

_OUT = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Pack a bundle into one file, or write a folder for Triton or DeepStream.

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
@click.option("-o", "--out", type=_OUT, help="The file to write.  [default: BUNDLE's name + .fer]")
def pack(bundle: str | None, root: Path, out: Path | None) -> None:
    """Check every byte of BUNDLE (by default the pretrained one) and pack it into one file.

    Equal bundles give equal files. The file includes the plans that were built into the bundle, but
    no files that the manifest does not list.

    \b
    Example:
      fer-edge bundle pack runs/mine/bundle -o faces.fer
    """
    from fer_edge.bundle.packing import SUFFIX, pack_bundle

    opened = open_bundle(bundle, root)
    packed = pack_bundle(opened, out or Path(_file_name(opened.manifest.name) + SUFFIX))
    for name in packed.left_out:
        note(f"left out, not in the manifest: {name}")
    note(f"{packed.files} files, {packed.size / 1e6:.1f} MB")
    print_text(str(packed.path))


def _file_name(name: str) -> str:
    """Return a bundle's name as the name of a file; a manifest may have any text there."""
    return re.sub(r"[/\0]|\\u[0-9a-f]{4}", "_", one_line(name))[:60].strip() or "bundle"


@command.command()
@click.argument("archive", type=_OUT)
@click.option("-o", "--out", type=_OUT, help="The folder to create.  [default: ARCHIVE's name]")
@click.option("--replace", is_flag=True, help="Replace an existing bundle.")
def unpack(archive: Path, out: Path | None, replace: bool) -> None:
    """Unpack ARCHIVE, a file of `fer-edge bundle pack`, into a new folder.

    Every byte is checked before the folder appears. If a check fails (exit code 6), no folder is
    created.

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
    note(f"{len(bundle.manifest.artifacts)} files, all match their digests")
    note(f"next: fer-edge inspect {out}")
    print_text(str(out))


@command.command()
@click.argument("bundle", required=False)
@runs_option
@click.option("-o", "--out", type=_OUT, required=True, help="The model repository.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    help="The precision of the models.  [default: for each model the first of int8, fp16, fp32 "
    "whose gate has not failed]",
)
@click.option(
    "--max-batch",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Largest batch of the ONNX model; a plan has its own.",
)
@click.option("--replace", is_flag=True, help="Replace existing models of the same name.")
def triton(
    bundle: str | None,
    root: Path,
    out: Path,
    precision: str | None,
    max_batch: int,
    replace: bool,
) -> None:
    """Write a model repository for Triton Inference Server: an ONNX model and TensorRT plans.

    The models take pixels (uint8 [1,48,48] per image) and return logits; Triton batches requests.
    The repository has plans only if `fer-edge build --target tensorrt` built them into BUNDLE.

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
@click.option("-o", "--out", type=_OUT, required=True, help="The folder to create.")
@click.option(
    "--precision",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp16",
    show_default=True,
    help="The precision of the engine that nvinfer runs.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="nvinfer's batch-size.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.5,
    show_default=True,
    help="A face whose probability is lower gets no label.",
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
    help="The detector's class for faces.",
)
@click.option(
    "--luma",
    type=click.Choice(["full", "video"]),
    default="full",
    show_default=True,
    help="The range of the video's luma: 0..255, or 16..235.",
)
@click.option("--replace", is_flag=True, help="Replace an existing DeepStream folder.")
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
    """Write configuration, labels and graph for a secondary classifier (nvinfer) of DeepStream.

    nvinfer normalises the pixels. So the graph has no normalisation (but a Softmax at its end), and
    the configuration has the scale factor and the offset. This command needs fer-edge[build].

    \b
    Example:
      fer-edge bundle deepstream runs/mine/bundle -o deepstream --detector-id 1 --face-class 0
    """
    from fer_edge.deploy.deepstream import CONFIG, FaceDetector, deepstream_from_bundle

    opened = open_bundle(bundle, root)
    settings = deepstream_from_bundle(
        opened,
        out,
        precision=precision,
        batch=batch,
        threshold=threshold,
        detector=FaceDetector(detector_id, face_class),
        luma="video" if luma == "video" else "full",
        replace=replace,
    )
    factor, offset = settings["net-scale-factor"], settings["offsets"]
    note(f"{settings['onnx-file']}: y = {factor} * (x - {offset}), tested with the golden images")
    note(f"next: use {out / CONFIG} in a secondary nvinfer, see {out / 'README.md'}")
    print_text(str(out))
