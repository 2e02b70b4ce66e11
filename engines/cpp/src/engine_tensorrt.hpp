// TensorRT on an NVIDIA GPU; runs the plans that `fer-edge build --target tensorrt` wrote into the
// bundle's engines/ folder.
#pragma once

#include "engine.hpp"

namespace fer_edge {

[[nodiscard]] const char* tensorrt_version();
// Returns why the TensorRT and the GPU of this machine cannot load a plan, or "".
[[nodiscard]] std::string tensorrt_misfit(const Bundle& bundle, const Artifact& plan);
// Returns how the GPU that built a plan differs in size from this one, or "".
[[nodiscard]] std::string tensorrt_differs(const Bundle& bundle, const Artifact& plan);
[[nodiscard]] std::unique_ptr<Engine> tensorrt_load(const Bundle& bundle, const Artifact& plan,
                                                    const EngineOptions& options);

}  // namespace fer_edge
