"""Accuracy against latency: our network beside the graphs that users would otherwise run.

::

    python bench/frontier.py --data fer2013.zip      # some 5 minutes when the graphs are there
    python bench/frontier.py --draw bench/results/FILE      # figure and table of a saved result

Every network is timed in one run, in turns, by the protocol of ``fer-edge bench``: batch 1, ONNX
Runtime, FP32 and INT8. Networks of which no weights are ours have random ones: latency does not
depend on them. Each takes u8 pixels at its own size, with the normalisation inside; enlarging
48x48 to that size is not timed, in favour of the others. INT8 is made by our own path, with the
same calibration images for all; what of a graph stays in float is said.

Result is: the median over repeats of the median latency of one image. Accuracy is never measured
here: ours comes from the bundle (``verify.json``), that of networks trained here from
``bench/results/reproduction``, all other from publications, and is marked so. Graphs are kept in
the cache, so that a run that was stopped begins with its timing.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from frontier_report import PICTURE, TABLE, draw, table
from PIL import Image

from fer_edge import __version__
from fer_edge.backends import backend_from_bundle
from fer_edge.backends.null import NullBackend
from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle
from fer_edge.data import (
    CalibrationRecipe,
    CalibrationSet,
    FerDataset,
    load,
    resolve_source,
    select_calibration,
)
from fer_edge.data.cache import cache_dir
from fer_edge.errors import FerEdgeError, UnavailableError, UsageError
from fer_edge.files import sha256_bytes, sha256_file, write_bytes, write_json, write_text
from fer_edge.measure.environment import capture, finish
from fer_edge.measure.latency import LatencyProtocol, LatencySamples, min_samples, time_backends
from fer_edge.models import MODELS, ModelSpec
from fer_edge.preprocessing import Preprocessing
from fer_edge.pretrained import pretrained_path

HERE = Path(__file__).resolve().parent
REPRODUCTION = HERE / "results" / "reproduction"
PRECISIONS = ("fp32", "int8")
SCHEMA = 1

_MASKING = (
    "Pham and Tran 2020, github.com/phamquiluan/ResidualMaskingNetwork: PrivateTest, from "
    "ImageNet's weights"
)
_MAKERS = ("choice", "export", "graph", "int8", "placement", "ranges", "weights")
"""The files of fer_edge.convert that decide what a graph is."""

_INPUT_BYTES = 32 * 2**20
"""What the different images of one size may take: 1,024 of 48x48, some 200 of 3x224x224."""


@dataclass(frozen=True)
class Rival:
    """A network that is not ours: how it is built, what it takes, and what is published of it.

    ``model`` is a name of ``fer-edge models``, or None. ``published`` is a fraction or None.
    """

    name: str
    build: Callable[[], Any]
    size: int
    channels: int
    source: str
    model: str | None = None
    published: float | None = None
    reference: str = ""

    @property
    def key(self) -> str:
        """Name and size: what its files are called."""
        return f"{self.name}-{self.size}"


def rivals() -> list[Rival]:
    """Return all networks that ours is compared with."""
    found = []
    for name, entry in MODELS.items():
        if "fer-edge" in entry.source:
            continue  # ours is the bundle
        size = 64 if name == "mini-xception" else 48  # the size it was published for
        found.append(
            Rival(
                name=name,
                build=partial(_zoo, name, size),
                size=size,
                channels=1,
                source=entry.source,
                model=name,
                published=entry.reported,
                reference=f"{entry.source}: as reported, on a split of its authors' own",
            )
        )
    for size in (48, 112, 224):
        build = partial(_vision, "mobilenet_v3_small")
        found.append(Rival("mobilenetv3-small", build, size, 3, "torchvision"))
    build = partial(_vision, "efficientnet_b0")
    found.append(Rival("efficientnet-b0", build, 224, 3, "torchvision"))
    for name, build, published in (
        ("resnet34", partial(_vision, "resnet34"), 0.7242),
        ("vgg19-bn", partial(_zoo, "vgg19", 224, 3), 0.7080),
    ):
        found.append(
            Rival(name, build, 224, 3, "as users run it", None, published, reference=_MASKING)
        )
    return found


def _zoo(name: str, size: int, channels: int = 1) -> Any:
    from fer_edge.models import build_model

    # VGG19 enlarges to a size of its own, unless it is the images'.
    options = {"size": size} if name == "vgg19" else {}
    return build_model(ModelSpec(name, options, size, channels))


def _vision(name: str) -> Any:
    return getattr(import_module("torchvision.models"), name)(weights=None, num_classes=7)


# -- graphs ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Graphs:
    """The files of a rival, what they cost, and what INT8 left in float or why there is none."""

    fp32: Path
    int8: Path | None
    parameters: int
    macs: int
    note: str


@dataclass(frozen=True)
class Enlarged(CalibrationSet):
    """Calibration images at another size, a few at a time: their activations are large."""

    size: int = 48
    channels: int = 1

    def batches(self, dataset: FerDataset, size: int = 64) -> Any:
        """Return u8[b,channels,size,size] batches."""
        images = enlarged(self.images(dataset), self.size, self.channels)
        few = max(1, 64 * 48 * 48 // self.size**2)
        return [images[start : start + few] for start in range(0, len(images), few)]


def enlarged(images: np.ndarray, size: int, channels: int) -> np.ndarray:
    """Return u8[N,channels,size,size] for u8[N,48,48], bilinear."""
    if images.shape[1] != size:
        sized = [Image.fromarray(image).resize((size, size), Image.BILINEAR) for image in images]
        images = np.stack([np.asarray(image) for image in sized])
    return np.ascontiguousarray(np.repeat(images[:, None], channels, axis=1))


def graphs(rival: Rival, folder: Path, dataset: FerDataset) -> Graphs:
    """Return the graphs of ``rival``, made before or made now; a stopped one is made again."""
    described = folder / f"{rival.key}.json"
    key = _key(rival)
    fp32, int8 = folder / f"{rival.key}.fp32.onnx", folder / f"{rival.key}.int8.onnx"
    content = json.loads(described.read_text()) if described.is_file() else {}
    if content.get("key") != key or content.get("dataset") != dataset.sha256:
        content = {"key": key, "dataset": dataset.sha256, **_make(rival, fp32, int8, dataset)}
        write_json(described, content)  # last: what stands there is whole
    return Graphs(
        fp32=fp32,
        int8=int8 if content["int8"] else None,
        parameters=content["parameters"],
        macs=content["macs"],
        note=content["note"],
    )


def _key(rival: Rival) -> str:
    """Return a digest of what the graphs depend on: the builder's arguments, code and versions."""
    import torch
    import torchvision

    code = [inspect.getsource(each) for each in (_make, _lively, _zoo, _vision, Enlarged, enlarged)]
    convert = Path(import_module("fer_edge.convert").__file__ or "").parent
    sources = [convert / f"{name}.py" for name in _MAKERS]
    if rival.model or rival.name == "vgg19-bn":
        target = MODELS[rival.model or "vgg19"].target.partition(":")[0]
        sources.append(Path(import_module(target).__file__ or ""))
    code += [path.read_text(encoding="utf-8") for path in sources]
    versions = [__version__, torch.__version__, torchvision.__version__]
    return sha256_bytes("\0".join([rival.key, *versions, *code]).encode())


def _make(rival: Rival, fp32: Path, int8: Path, dataset: FerDataset) -> dict[str, Any]:
    import torch

    from fer_edge.convert.export import graph_from_module
    from fer_edge.convert.graph import load_model, save_model
    from fer_edge.convert.int8 import int8_from_onnx
    from fer_edge.convert.ranges import ranges_from_onnx
    from fer_edge.models.profile import count_macs, count_parameters
    from fer_edge.models.reference import Reference

    torch.manual_seed(0)
    model = _lively(rival.build(), rival.size)
    pixels = torch.zeros((1, rival.channels, rival.size, rival.size), dtype=torch.uint8)
    graph = graph_from_module(Reference(model, Preprocessing()).eval(), pixels)
    save_model(graph, fp32)
    spec = ModelSpec(rival.name, size=rival.size, channels=rival.channels)
    content = {
        "parameters": count_parameters(model),
        "macs": count_macs(model, spec),
        "int8": True,
        "note": "",
    }
    calibration = select_calibration(dataset, CalibrationRecipe("frontier", count=32))
    own = {field.name: getattr(calibration, field.name) for field in fields(calibration)}
    sized = Enlarged(**own, size=rival.size, channels=rival.channels)
    try:
        ranges = ranges_from_onnx(fp32, dataset, sized, cache=False)
        report = int8_from_onnx(fp32, int8, ranges, "onnxruntime")
    except FerEdgeError as error:
        return {**content, "int8": False, "note": f"no INT8: {error}"}
    kinds = {node.name: node.op_type for node in load_model(fp32).graph.node}
    left = Counter(kinds[name] for name, _ in report.excluded)
    if left:
        told = ", ".join(f"{count} {kind}" for kind, count in left.most_common())
        content["note"] = f"INT8 leaves in float: {told}"
    return content


def _lively(model: Any, size: int) -> Any:
    """Give a fresh network BatchNorm statistics of its own: no activation fades or explodes."""
    import torch

    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for module in norms:
        module.momentum = None  # the mean of all batches, here of one
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    if norms:
        with torch.no_grad():
            model.train()(torch.randn(2, first.in_channels, size, size))
    return model.eval()


# -- timing ----------------------------------------------------------------------------------------


@dataclass
class Inputs:
    """The images u8[N,48,48] at every size that was asked for."""

    images: np.ndarray
    _made: dict[tuple[int, int], list[np.ndarray]] = field(default_factory=dict)

    def of(self, size: int, channels: int) -> list[np.ndarray]:
        """Return different u8[1,channels,size,size]."""
        if (size, channels) not in self._made:
            count = min(len(self.images), _INPUT_BYTES // (channels * size**2))
            sized = enlarged(self.images[:count], size, channels)
            self._made[size, channels] = [image[None] for image in sized]
        return self._made[size, channels]


class RivalEngine(OnnxRuntimeBackend):
    """A session as ours, on a graph of any size, which answers its own images in turn."""

    def __init__(
        self, path: Path, precision: str, images: Sequence[np.ndarray], threads: int
    ) -> None:
        super().__init__(path, precision=precision, threads=threads)
        self._images, self._turn = images, 0

    def _adopt(self, session: Any, path: Path) -> None:
        self._input = session.get_inputs()[0].name
        self._outputs = [session.get_outputs()[0].name]
        self._session = session

    def infer(self, images: np.ndarray) -> np.ndarray:
        """Return f32[1,7] of the next image of the network's own size."""
        image = self._images[self._turn]
        self._turn = (self._turn + 1) % len(self._images)
        logits: np.ndarray = self._session.run(self._outputs, {self._input: image})[0]
        return logits


def protocol(quick: bool) -> LatencyProtocol:
    """Return a protocol that lasts minutes for three dozen graphs of 0.2 to 500 ms: p50 alone."""
    return LatencyProtocol(
        warmup_s=0.2,
        warmup_queries=2,
        measure_s=0.2 if quick else 1.2,
        min_queries=min_samples(50),
        max_queries=20_000,
        repeats=2 if quick else 5,
        quick=quick,
    )


def prepare(
    chosen: Sequence[Rival], folder: Path, dataset: FerDataset, say: Callable[[str], None]
) -> dict[str, Graphs]:
    """Return the graphs of all, by key, made where they are missing."""
    made = {}
    for rival in chosen:
        say(f"graphs of {rival.key}")
        made[rival.key] = graphs(rival, folder, dataset)
    return made


def run(
    bundle: Bundle,
    dataset: FerDataset,
    chosen: Sequence[Rival],
    folder: Path,
    *,
    threads: int,
    quick: bool,
    say: Callable[[str], None],
    busy: bool = False,
) -> dict[str, Any]:
    """Make what is missing, time all in one run, and return the result.

    UnavailableError on a machine that does other work, unless ``quick`` or ``busy``.
    """
    made = prepare(chosen, folder, dataset, say)
    if not (quick or busy):
        refuse_other_work(threads)
    images = dataset.select("public").images[:1024]
    inputs = Inputs(images)
    environment = capture(threads)
    rows: list[dict[str, Any]] = []
    engines: dict[str, Any] = {}
    with ExitStack() as stack:

        def add(row: dict[str, Any], make: Callable[[], Any] | None) -> None:
            rows.append(row)
            if make is None:
                row["status"] = "unavailable"
                return
            try:
                engine = make()
                stack.callback(engine.close)
                engine.load()
            except FerEdgeError as error:
                row.update(status="failed", note=str(error))
                return
            row["provider"] = engine.provider
            engines[str(len(rows) - 1)] = engine

        add({"name": "null", "precision": "", "note": "harness floor"}, partial(NullBackend, None))
        for precision in PRECISIONS:
            row, make = _ours(bundle, precision, threads)
            add(row, make)
        for rival in chosen:
            for precision in PRECISIONS:
                add(*_theirs(rival, made[rival.key], precision, inputs, threads))
        timing = protocol(quick)
        slow = sum(1 for rival in chosen if rival.size > 112)
        seconds = timing.estimated_seconds(len(engines)) + timing.repeats * slow * 3
        say(f"timing {len(engines)} engines, about {seconds / 60:.1f} min")
        samples = time_backends(engines, images, timing)
    for index, times in samples.items():
        rows[int(index)].update(_times(times))
    return {
        "schema": SCHEMA,
        "created": environment["captured"],
        "fer_edge": __version__,
        "environment": finish(environment),
        "protocol": timing.to_dict(),
        "dataset": {
            "source": dataset.source,
            "sha256": dataset.sha256,
            "synthetic": dataset.synthetic,
        },
        "bundle": {"name": bundle.manifest.name, "synthetic": bundle.manifest.synthetic},
        "rows": rows,
    }


def refuse_other_work(threads: int) -> None:
    """Raise UnavailableError where other programs want the cores.

    A network of half a millisecond fits between two of their turns, and one of 400 does not: the
    comparison would flatter the small ones, ours among them.
    """
    for warning in capture(threads)["warnings"]:
        if "busy" in warning:
            raise UnavailableError(
                warning, fix="wait until the other work is done, or say --busy to time all the same"
            )


def _ours(
    bundle: Bundle, precision: str, threads: int
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    model = bundle.manifest.model
    row = {
        "name": bundle.manifest.name,
        "precision": precision,
        "ours": True,
        "size": 48,
        "channels": 1,
        "parameters": model.get("parameters"),
        "macs": model.get("macs"),
        "source": "fer-edge",
        "measured": measured_accuracy(bundle, precision),
        "note": "",
    }
    try:
        engine = backend_from_bundle(bundle, "onnxruntime", precision, threads=threads)
    except UsageError as error:
        return {**row, "note": str(error)}, None
    row["bytes"] = engine.path.stat().st_size if engine.path else None
    row["sha256"] = sha256_file(engine.path) if engine.path else None
    return row, lambda: engine


def _theirs(
    rival: Rival, files: Graphs, precision: str, inputs: Inputs, threads: int
) -> tuple[dict[str, Any], Callable[[], Any] | None]:
    path = files.fp32 if precision == "fp32" else files.int8
    published = None
    if rival.published is not None:
        published = {"top1": rival.published, "reference": rival.reference}
    row = {
        "name": rival.name,
        "precision": precision,
        "ours": False,
        "size": rival.size,
        "channels": rival.channels,
        "parameters": files.parameters,
        "macs": files.macs,
        "source": rival.source,
        "published": published,
        "measured": reproduced(rival.model, precision) if rival.size == 48 else None,
        "note": files.note if precision == "int8" else "",
    }
    if path is None:
        return row, None
    row["bytes"] = path.stat().st_size
    own = inputs.of(rival.size, rival.channels)
    return row, partial(RivalEngine, path, precision, own, threads)


def _times(times: LatencySamples) -> dict[str, Any]:
    return {
        "status": "ok",
        "p50_ms": times.p50_ms,
        "p50_range_ms": list(times.spread),
        "cv": times.cv,
        "images_per_s": times.images_per_s,
        "queries": [len(repeat) for repeat in times.ns],
        "ns": [repeat.tolist() for repeat in times.ns],
    }


# -- accuracy: read, never measured here -----------------------------------------------------------


def measured_accuracy(bundle: Bundle, precision: str) -> dict[str, Any] | None:
    """Return what the bundle's own proof says of ONNX Runtime on PublicTest, or None."""
    target = "onnxruntime" if precision == "int8" else ""
    artifact = bundle.find(format="onnx", precision=precision, target=target)
    listed = bundle.find(path="verify.json")
    if listed is None or artifact is None:
        return None
    content = json.loads(bundle.file(listed).read_text(encoding="utf-8"))
    for proof in content["verifications"]:
        engine = proof["engine"]
        key = (engine["backend"], engine["artifact_sha256"], proof["split"])
        if key == ("onnxruntime", artifact.sha256, "public"):
            return {
                "top1": engine["top1"],
                "n": proof["n"],
                "split": "PublicTest",
                "synthetic": proof["dataset"]["synthetic"],
                "from": f"verify.json of {bundle.manifest.name}",
            }
    return None


def reproduced(model: str | None, precision: str) -> dict[str, Any] | None:
    """Return the best of our own trainings of a network, from the saved results, or None."""
    best: dict[str, Any] | None = None
    for path in sorted(REPRODUCTION.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["model"]["name"] != model or content["data"]["split"] != "official":
            continue
        for engine in content["engines"]:
            if (engine["backend"], engine["precision"]) != ("onnxruntime", precision):
                continue
            if engine["top1"] is not None and (best is None or engine["top1"] > best["top1"]):
                best = {
                    "top1": engine["top1"],
                    "n": engine["n"],
                    "split": "PublicTest",
                    "synthetic": content["data"]["synthetic"],
                    "from": f"bench/results/reproduction/{path.name}",
                }
    return best


# -- the command -----------------------------------------------------------------------------------


def machine_name(environment: dict[str, Any]) -> str:
    """Return a file's name of a machine: its CPU and cores."""
    machine = environment["machine"]
    words = f"{machine['cpu'] or machine['arch']} {machine['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def save(result: dict[str, Any], folder: Path, machine: str | None) -> Path:
    """Write the raw result below ``folder``; return the file."""
    path = folder / "results" / f"frontier-{machine or machine_name(result['environment'])}.json.gz"
    text = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    write_bytes(path, gzip.compress(text.encode(), 9, mtime=0))
    return path


def load_result(path: Path) -> dict[str, Any]:
    """Read what :func:`save` wrote; UsageError if it is none."""
    try:
        content = path.read_bytes()
        text = gzip.decompress(content) if path.suffix == ".gz" else content
        result: dict[str, Any] = json.loads(text)
        known = result["schema"] == SCHEMA and "rows" in result
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no result of this script: {error}") from None
    if not known:
        raise UsageError(f"{path} has schema {result['schema']}, this script reads {SCHEMA}")
    return result


def report(result: dict[str, Any], folder: Path, raw: str) -> None:
    """Write figure and table of a result into ``folder``."""
    draw(result, folder / PICTURE)
    write_text(folder / TABLE, table(result, raw))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _chosen(names: Sequence[str]) -> list[Rival]:
    known = rivals()
    for name in names:
        if name not in {rival.name for rival in known} | {rival.key for rival in known}:
            listed = ", ".join(rival.key for rival in known)
            raise UsageError(f"there is no network {name!r} here", fix=f"one of {listed}")
    return [rival for rival in known if not names or rival.name in names or rival.key in names]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, or draw what was measured; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bundle", type=Path, help="ours; by default the one in the package")
    parser.add_argument("--data", help="FER2013 (or FER_EDGE_DATA): pixels and calibration")
    parser.add_argument("--only", action="append", default=[], help="only this network (repeat)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="seconds; kept out of bench/")
    parser.add_argument("--busy", action="store_true", help="time although other work runs here")
    parser.add_argument("--machine", help="the machine's name in the result's file name")
    parser.add_argument("--out", type=Path, help="folder of results, figure and table")
    parser.add_argument("--graphs", type=Path, help="where graphs are kept; by default the cache")
    parser.add_argument("--prepare", action="store_true", help="make the graphs, time nothing")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="only draw a saved result")
    options = parser.parse_args(argv)
    # A quick or partial run is for looking: it must not replace what the documents show.
    look = (options.quick or options.only) and not options.prepare
    out = options.out or (Path(tempfile.mkdtemp(prefix="fer-edge-frontier-")) if look else HERE)
    try:
        if options.draw:
            report(load_result(options.draw), out, options.draw.name)
        else:
            chosen = _chosen(options.only)
            folder = options.graphs or cache_dir() / "frontier"
            dataset = load(resolve_source(options.data))
            if options.prepare:
                prepare(chosen, folder, dataset, _say)
                print(folder)
                return 0
            result = run(
                Bundle.open(options.bundle or pretrained_path()),
                dataset,
                chosen,
                folder,
                threads=options.threads,
                quick=options.quick,
                say=_say,
                busy=options.busy,
            )
            raw = save(result, out, options.machine)
            report(result, out, raw.name)
            print(raw)
    except FerEdgeError as error:
        print(f"error: {error}", file=sys.stderr)
        print(f"fix:   {error.fix}", file=sys.stderr)
        return error.exit_code
    print(out / PICTURE)
    print(out / TABLE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
