// TensorRT on an NVIDIA GPU, running the plans that `fer-edge build --target tensorrt` put into the
// bundle's engines/ folder.
#pragma once

#include "engine.hpp"

namespace fer_edge {

[[nodiscard]] const char* tensorrt_version();
[[nodiscard]] bool tensorrt_has(const Bundle& bundle, const std::string& precision);
[[nodiscard]] std::unique_ptr<Engine> tensorrt_load(const Bundle& bundle,
                                                    const EngineOptions& options);

}  // namespace fer_edge
