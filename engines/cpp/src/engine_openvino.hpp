// OpenVINO on the CPU; runs the bundle's ONNX graphs.
#pragma once

#include "engine.hpp"

namespace fer_edge {

[[nodiscard]] const char* openvino_version();
[[nodiscard]] std::unique_ptr<Engine> openvino_load(const Bundle& bundle, const Artifact& graph,
                                                    const EngineOptions& options);

}  // namespace fer_edge
