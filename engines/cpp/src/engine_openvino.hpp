// OpenVINO on the CPU, running the bundle's ONNX graphs.
#pragma once

#include "engine.hpp"

namespace fer_edge {

[[nodiscard]] const char* openvino_version();
[[nodiscard]] bool openvino_has(const Bundle& bundle, const std::string& precision);
[[nodiscard]] std::unique_ptr<Engine> openvino_load(const Bundle& bundle,
                                                    const EngineOptions& options);

}  // namespace fer_edge
