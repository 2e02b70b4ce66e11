"""The Triton model repository: its files, and its text form read with Triton's own schema."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fixtures_bundle import BundleMaker, TinyNet, golden_images
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from fer_edge.backends.onnxruntime import OnnxRuntimeBackend
from fer_edge.bundle import Bundle, BundleWriter
from fer_edge.deploy.triton import TritonModel, triton_from_bundle
from fer_edge.emotions import EMOTIONS
from fer_edge.errors import IntegrityError, UsageError
from fer_edge.files import sha256_bytes, sha256_file
from fer_edge.trt.sidecar import PlanSidecar

FIELDS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "triton_model_config.json").read_text(encoding="utf-8")
)
"""The part of Triton's schema that we write, taken from the official package: the last test."""


def _schema() -> Any:
    """Return the message class of ModelConfig, made from the table; it has no other fields."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="our_model_config.proto", package="ours", syntax="proto3"
    )
    for name, values in FIELDS["enums"].items():
        # An enum's values live in the scope around it.
        enum = file.enum_type.add(name=name.replace(".", ""))
        for value, number in values.items():
            enum.value.add(name=value, number=number)
    for name, fields in FIELDS["messages"].items():
        message = file.message_type.add(name=name)
        for field, facts in fields.items():
            added = message.field.add(name=field, number=facts["number"])
            added.label = kinds.LABEL_REPEATED if facts["repeated"] else kinds.LABEL_OPTIONAL
            added.type = getattr(kinds, f"TYPE_{facts['type'].upper()}")
            if facts.get("of") == "map<string,string>":
                entry = message.nested_type.add(name="CcModelFilenamesEntry")
                entry.options.map_entry = True
                for number, key in ((1, "key"), (2, "value")):
                    entry.field.add(
                        name=key,
                        number=number,
                        label=kinds.LABEL_OPTIONAL,
                        type=kinds.TYPE_STRING,
                    )
                added.type_name = f".ours.{name}.CcModelFilenamesEntry"
            elif "of" in facts:
                added.type_name = f".ours.{facts['of'].replace('.', '')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("ours.ModelConfig"))


ModelConfig = _schema()


def config_of(model: TritonModel) -> Any:
    text = (model.folder / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, ModelConfig())


def add_plan(bundle: Bundle, sm: int, version: str, batch: int, dtype: str = "uint8") -> Bundle:
    content = f"plan {sm} {version}".encode()
    graph = bundle.artifact(format="onnx", precision="fp32")
    name = f"engines/sm{sm}-trt{version}-fp16"
    sidecar = PlanSidecar(
        package="tensorrt",
        tensorrt=version,
        sm=sm,
        gpu="a GPU",
        target="x86-dgpu",
        precision="fp16",
        parent_sha256=graph.sha256,
        sha256=sha256_bytes(content),
        size=len(content),
        batch={"min": 1, "opt": 1, "max": batch},
        input={"name": "images", "dtype": dtype, "shape": [-1, 1, 48, 48]},
        output={"name": "logits", "dtype": "float", "shape": [-1, 7]},
        build_seconds=1.0,
        created="2026-11-23T00:00:00+00:00",
    )
    with BundleWriter(bundle.path, base=bundle) as writer:
        writer.add_bytes(
            content,
            f"{name}.plan",
            format="plan",
            precision="fp16",
            target="tensorrt",
            parent=graph,
        )
        text = json.dumps(sidecar.to_dict()).encode()
        writer.add_bytes(text, f"{name}.json", format="json", parent=f"{name}.plan")
    return Bundle.open(bundle.path)


def test_an_onnx_model(tiny_bundle: Bundle, tiny_net: TinyNet, tmp_path: Path) -> None:
    (model,) = triton_from_bundle(tiny_bundle, tmp_path / "repo", precision="fp32", max_batch=8)
    assert model.folder == tmp_path / "repo" / "tiny_onnx"
    files = sorted(str(p.relative_to(model.folder)) for p in model.folder.rglob("*") if p.is_file())
    assert files == ["1/model.onnx", "config.pbtxt", "labels.txt"]
    assert (model.folder / "labels.txt").read_text().split() == list(EMOTIONS)
    config = config_of(model)
    assert config.name == "tiny_onnx"
    assert (config.backend, config.platform) == ("onnxruntime", "onnxruntime_onnx")
    assert config.max_batch_size == 8
    assert config.default_model_filename == "model.onnx"
    (takes,), (gives,) = config.input, config.output
    types = FIELDS["enums"]["DataType"]
    assert (takes.name, takes.data_type, list(takes.dims)) == (
        "images",
        types["TYPE_UINT8"],
        [1, 48, 48],
    )
    assert (gives.name, gives.data_type, list(gives.dims)) == ("logits", types["TYPE_FP32"], [7])
    assert gives.label_filename == "labels.txt"
    assert config.HasField("dynamic_batching")
    assert not config.instance_group
    # The names and the free batch are those of the graph that is served.
    with OnnxRuntimeBackend(model.folder / "1" / "model.onnx") as backend:
        images = golden_images(8)
        assert np.allclose(backend.infer(images), tiny_net.logits(images), atol=1e-4)


def test_a_graph_from_elsewhere(foreign_bundle: Bundle, tmp_path: Path) -> None:
    (model,) = triton_from_bundle(foreign_bundle, tmp_path / "repo", precision="fp32")
    config = config_of(model)
    (takes,), (gives,) = config.input, config.output
    types = FIELDS["enums"]["DataType"]
    assert (takes.data_type, list(takes.dims)) == (types["TYPE_UINT8"], [1, 48, 48])
    assert (gives.data_type, list(gives.dims)) == (types["TYPE_FP32"], [7])
    assert (model.folder / "labels.txt").read_text().split() == list(EMOTIONS)
    images = golden_images(8, seed=3)
    with OnnxRuntimeBackend.from_bundle(foreign_bundle, "fp32") as backend:
        expected = backend.infer(images)
    assert len(set(expected.argmax(1).tolist())) > 1
    with OnnxRuntimeBackend(model.folder / "1" / "model.onnx") as backend:
        assert np.allclose(backend.infer(images), expected, atol=1e-4)


def test_a_graph_of_float_pixels(bundle_maker: BundleMaker, tmp_path: Path) -> None:
    (model,) = triton_from_bundle(bundle_maker(uint8=False), tmp_path, precision="fp32")
    assert config_of(model).input[0].data_type == FIELDS["enums"]["DataType"]["TYPE_FP32"]


def test_the_default_is_the_best_precision_that_passed(
    bundle_maker: BundleMaker, tmp_path: Path
) -> None:
    bundle = bundle_maker()
    (model,) = triton_from_bundle(bundle, tmp_path)
    assert (model.precision, model.sources) == ("int8", ("model.int8.onnxruntime.onnx",))
    assert config_of(model).instance_group[0].kind == 2, "INT8 for CPUs runs on the CPU"
    with BundleWriter(bundle.path, base=bundle) as writer:
        writer.add_gate({"precision": "int8", "target": "onnxruntime", "passed": False})
    (model,) = triton_from_bundle(Bundle.open(bundle.path), tmp_path, replace=True)
    assert model.precision == "fp32"


def test_plans_by_compute_capability(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = add_plan(tiny_bundle, 87, "10.3.0", 32)
    bundle = add_plan(bundle, 90, "10.13.3.9", 16)
    bundle = add_plan(bundle, 90, "10.3.0", 16)
    _, model = triton_from_bundle(bundle, tmp_path)
    config = config_of(model)
    assert (config.backend, config.platform) == ("tensorrt", "tensorrt_plan")
    assert dict(config.cc_model_filenames) == {"8.7": "model_sm87.plan", "9.0": "model_sm90.plan"}
    assert config.default_model_filename == "model_sm87.plan"
    assert config.max_batch_size == 16, "what every plan takes"
    assert (model.folder / "1" / "model_sm90.plan").read_bytes() == b"plan 90 10.13.3.9"
    assert any("sm90-trt10.3.0-fp16.plan is left out" in note for note in model.notes)


def test_a_plan_for_one_image_needs_no_batching(tiny_bundle: Bundle, tmp_path: Path) -> None:
    _, model = triton_from_bundle(add_plan(tiny_bundle, 87, "10.3.0", 1), tmp_path)
    config = config_of(model)
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")


def test_plans_that_take_different_input(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = add_plan(tiny_bundle, 87, "10.3.0", 1)
    bundle = add_plan(bundle, 90, "10.3.0", 1, dtype="float")
    with pytest.raises(UsageError, match="same input"):
        triton_from_bundle(bundle, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()


def test_only_its_own_models_are_replaced(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (model,) = triton_from_bundle(tiny_bundle, tmp_path)
    with pytest.raises(UsageError, match="exists already"):
        triton_from_bundle(tiny_bundle, tmp_path)
    (model.folder / "2").mkdir()
    triton_from_bundle(tiny_bundle, tmp_path, replace=True)
    assert not (model.folder / "2").exists()
    assert (tmp_path / "other").is_dir()
    (model.folder / "config.pbtxt").unlink()
    with pytest.raises(UsageError, match="is not a"):
        triton_from_bundle(tiny_bundle, tmp_path, replace=True)


def test_a_graph_that_changed_is_not_served(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tiny_bundle.path / "model.fp32.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError):
        triton_from_bundle(tiny_bundle, tmp_path / "repo", precision="fp32")
    assert not list((tmp_path / "repo").iterdir())


def test_mistakes(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no fp16 graph for onnxruntime"):
        triton_from_bundle(tiny_bundle, tmp_path, precision="fp16")
    with pytest.raises(UsageError, match="at least one image"):
        triton_from_bundle(tiny_bundle, tmp_path, max_batch=0)


@pytest.mark.parametrize("name", ['a "quoted" \\ name', "zwölf\nLinien", "..", "\u202e", "a/b c"])
def test_any_name_is_a_model_name_and_a_string(
    tiny_bundle: Bundle, tmp_path: Path, name: str
) -> None:
    with BundleWriter(tiny_bundle.path, base=tiny_bundle) as writer:
        writer.set(name=name)
    (model,) = triton_from_bundle(Bundle.open(tiny_bundle.path), tmp_path / "repo")
    assert model.folder.parent == tmp_path / "repo"
    assert config_of(model).name == model.name == model.folder.name


def test_the_same_bundle_gives_the_same_bytes(tiny_bundle: Bundle, tmp_path: Path) -> None:
    models = [triton_from_bundle(tiny_bundle, tmp_path / name)[0] for name in "ab"]
    digests = [
        [sha256_file(path) for path in sorted(model.folder.rglob("*")) if path.is_file()]
        for model in models
    ]
    assert digests[0] == digests[1]


@pytest.fixture
def official() -> ModuleType:
    """``model_config_pb2`` of tritonclient, loaded as a file, since the package needs gRPC."""
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("tritonclient is not installed: pip install --no-deps tritonclient")
    path = Path(next(iter(spec.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
    if not path.is_file():
        pytest.skip(f"this tritonclient has no {path.name}")
    loaded = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert loaded
    assert loaded.loader
    module = importlib.util.module_from_spec(loaded)
    loaded.loader.exec_module(module)
    return module


def test_the_official_schema_reads_it_too(
    official: ModuleType, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    models = triton_from_bundle(add_plan(tiny_bundle, 87, "10.3.0", 4), tmp_path)
    for model in models:
        text = (model.folder / "config.pbtxt").read_text(encoding="utf-8")
        config = text_format.Parse(text, official.ModelConfig())
        assert config.SerializeToString() == config_of(model).SerializeToString()
    for name, fields in FIELDS["messages"].items():
        descriptor = getattr(official, name).DESCRIPTOR
        for field, facts in fields.items():
            assert descriptor.fields_by_name[field].number == facts["number"]
            assert descriptor.fields_by_name[field].is_repeated == facts["repeated"]
