"""Which names of TensorRT's Python API our code uses, read from its source.

Run as a script it prints, for bindings that are installed, which of them there are:
``python api_names.py LIBRARY_DIR MODULE`` (LIBRARY_DIR holds stub libraries, or is ``-``).
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[2] / "fer_edge"

# By file: what a variable of this name is.
_BUILD = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "layer": "ILayer",
    "engine": "ICudaEngine",
    "runtime": "Runtime",
    "error": "ParserError",
    "cache": "ITimingCache",
    "stored": "ITimingCache",
}
RECEIVERS: dict[str, dict[str, str]] = {
    "trt/builder.py": _BUILD,
    "trt/build_progress.py": _BUILD,
    "trt/timing_cache.py": _BUILD,
    "trt/parser_errors.py": {"parser": "OnnxParser"},
    "trt/library.py": {},
    "trt/dla.py": _BUILD,
    "trt/lane.py": {"context": "IExecutionContext"},
    "backends/tensorrt.py": {
        "engine": "ICudaEngine",
        "_runtime": "Runtime",
        "runtime": "Runtime",
        "config": "IRuntimeConfig",
        "_kernels": "IRuntimeCache",
        "kernels": "IRuntimeCache",
    },
}
MODULES = {"trt", "library"}
# A call whose result is used without a name of its own.
RESULTS = {
    "create_engine_inspector": "EngineInspector",
    "get_output": "ITensor",
    "get_error": "ParserError",
}


def used_names(file: str) -> set[str]:
    """``Builder.create_network``, ``BuilderFlag.TF32``, ``Builder`` ... used in one source file."""
    receivers = RECEIVERS[file]
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        chain = _chain(node)
        if chain and chain[0] in MODULES and not chain[1].startswith("__"):
            found.add(".".join(part for part in chain[1:3] if not part.startswith("__")))
            continue
        holder = _holder(node.value)
        if holder in receivers:
            found.add(f"{receivers[holder]}.{node.attr}")
        elif isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            result = RESULTS.get(node.value.func.attr)
            if result:
                found.add(f"{result}.{node.attr}")
    return found


def all_used_names() -> list[str]:
    return sorted(set().union(*(used_names(file) for file in RECEIVERS)) | GUARDED_NAMES)


# Asked for by hasattr or getattr, so that no attribute in the source shows them.
GUARDED_NAMES = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "BuilderFlag.REQUIRE_USER_ALLOCATION",
    "ITensor.set_dynamic_range",
    "OnnxParser.set_builder_config",
    "OnnxParser.supports_model_v2",
    "OnnxParserFlag.ADJUST_FOR_DLA",
    "OnnxParserFlag.REPORT_CAPABILITY_DLA",
    "IProgressMonitor",
    "IBuilderConfig.progress_monitor",
    "ParserError.node_name",
    "ParserError.node_operator",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
}


def _chain(node: ast.expr) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        inner = _chain(node.value)
        return [*inner, node.attr] if inner else []
    return []


def _holder(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


def has(module: Any, name: str) -> bool:
    value = module
    for part in name.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


if __name__ == "__main__":
    from load_bindings import load_bindings

    bindings = load_bindings(sys.argv[1], sys.argv[2])
    names = [name for name in all_used_names() if has(bindings, name)]
    sys.stdout.write(json.dumps({"version": bindings.__version__, "names": names}) + "\n")
