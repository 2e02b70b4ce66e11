"""What a build starts from: a run, a weights file, an ONNX file or a bundle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fer_edge.build.foreign import Foreign, open_graph
from fer_edge.bundle import MANIFEST, Bundle, BundleWriter
from fer_edge.convert.graph import Graph, read_graph
from fer_edge.convert.network import data_of_graph
from fer_edge.convert.onnx_file import OnnxFile, refuse_other_format
from fer_edge.errors import UsageError
from fer_edge.models.header import read_header
from fer_edge.pretrained import is_packaged, packaged_name
from fer_edge.provenance import DatasetInfo
from fer_edge.runs.find import TO_BUILD, Found, find
from fer_edge.runs.folder import confidence_weights

__all__ = ["BuildSource", "find_source"]


@dataclass(frozen=True)
class BuildSource:
    """Where the network comes from, and where its bundle goes.

    Exactly one of ``weights`` (safetensors) and ``onnx`` (an FP32 graph) is set. ``base`` is the
    bundle whose other files are kept, if there is one; ``given`` is the source itself where that
    is a bundle. ``name`` becomes the bundle's name. ``run`` is the folder of the run, if it is one.
    ``graph`` is the parsed graph where ``onnx`` has the form of ours, ``foreign`` one from
    elsewhere; both are None until :meth:`opened`.
    """

    described: str
    name: str
    weights: Path | None
    onnx: Path | None
    base: Bundle | None
    output: Path
    given: Bundle | None = None
    run: Path | None = None
    file: OnnxFile | None = None
    graph: Graph | None = None
    foreign: Foreign | None = None

    def opened(self) -> BuildSource:
        """Return the source with its graph parsed, if it is one; :class:`UsageError` as that."""
        if self.onnx is None:
            return self
        if self.file is None:
            return replace(self, graph=read_graph(self.onnx))
        found = open_graph(self.file)
        if isinstance(found, Graph):
            return replace(self, graph=found)
        return replace(self, foreign=found)

    def data(self) -> DatasetInfo:
        """Return the record of the data that the network was trained on."""
        if self.weights is not None:
            return read_header(self.weights).info.dataset
        if self.given is not None:
            return self.given.manifest.dataset
        if self.foreign is not None:
            return self.foreign.data
        assert self.graph is not None
        return data_of_graph(self.graph)


def find_source(
    name: str | Path | OnnxFile | None, output: str | Path | None = None
) -> BuildSource:
    """Return the source that ``name`` means: a run, a weights or ONNX file, or a bundle.

    None is the newest run. The bundle goes to ``output``, else to the run's ``bundle`` folder,
    beside the file, or back into the bundle itself. A copy of the bundle in the package is made in
    ``output``. :class:`UsageError` as :func:`fer_edge.runs.find.find`.
    """
    file = name if isinstance(name, OnnxFile) else None
    place = name.path if isinstance(name, OnnxFile) else name
    refuse_other_format(place)
    found = find(place, wants=TO_BUILD)
    path = found.path
    if file is not None and file.given and found.kind != "ONNX file":
        raise UsageError(
            f"{', '.join(file.given)} describe an ONNX file from elsewhere; the {found.kind} "
            f"{path} says itself what its classes and pixels are",
            fix=f"leave {', '.join(file.given)} away",
        )
    if found.kind == "run":
        return _from_run(found, output)
    if found.kind == "bundle":
        bundle = _own_copy(path, output) if is_packaged(path) else Bundle.open(path)
        return _from_bundle(bundle, output)
    if found.kind == "weights file":
        folder = _output(output, path.with_name("bundle"))
        parent = path.parent.resolve().name
        return BuildSource(f"the weights {path}", parent, path, None, _existing(folder), folder)
    folder = _output(output, path.with_name(f"{path.stem}-bundle"))
    return BuildSource(
        f"the graph {path}",
        path.stem,
        None,
        path,
        _existing(folder),
        folder,
        file=file.at(path) if file else OnnxFile(path),
    )


def _from_run(run: Found, output: str | Path | None) -> BuildSource:
    path = run.path
    weights = confidence_weights(path) or run.weights
    folder = _output(output, path / "bundle")
    name = path.resolve().name
    base = _existing(folder)
    return BuildSource(f"the run {path}", name, weights, None, base, folder, run=path)


def _own_copy(path: Path, output: str | Path | None) -> Bundle:
    """Return a copy of the packaged bundle in ``output``, or the bundle that is there."""
    if output is None or is_packaged(output):
        raise UsageError(
            f"{path} is part of the installed package, which is not written to",
            fix=f"give a folder for its copy: fer-edge build {packaged_name(path)} -o {path.name}",
        )
    if not (Path(output) / MANIFEST).is_file():
        with BundleWriter(output, base=Bundle.open(path)):
            pass
    return Bundle.open(output)


def _from_bundle(bundle: Bundle, output: str | Path | None) -> BuildSource:
    folder = _output(output, bundle.path)
    checkpoint = bundle.find(format="safetensors")
    graph = bundle.find(format="onnx", precision="fp32")
    if checkpoint is None and graph is None:
        raise UsageError(
            f"the bundle {bundle.path} has no weights and no FP32 graph to build from",
            fix="build from the run that it was made from",
        )
    return BuildSource(
        described=f"the bundle {bundle.path}",
        name=bundle.manifest.name,
        weights=bundle.file(checkpoint) if checkpoint else None,
        onnx=bundle.file(graph) if graph and not checkpoint else None,
        base=bundle,
        output=folder,
        given=bundle,
    )


def _output(output: str | Path | None, default: Path) -> Path:
    return default if output is None else Path(output)


def _existing(folder: Path) -> Bundle | None:
    """Return the bundle in ``folder``, to which files are added; None if there is none."""
    return Bundle.open(folder) if (folder / MANIFEST).is_file() else None
