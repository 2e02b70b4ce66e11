// TensorRT on an NVIDIA GPU, running the plans that `fer-edge build --target tensorrt` put into the
// bundle's engines/ folder.
#pragma once

#include "engine.hpp"

namespace fer_edge {

[[nodiscard]] const char* tensorrt_version();
// Why the TensorRT and the GPU here cannot load a plan, or nothing.
[[nodiscard]] std::string tensorrt_misfit(const Bundle& bundle, const Artifact& plan);
[[nodiscard]] std::unique_ptr<Engine> tensorrt_load(const Bundle& bundle, const Artifact& plan,
                                                    const EngineOptions& options);

}  // namespace fer_edge
