// The JSON beside a TensorRT plan: the release that built it and the GPU that it was built for.
#pragma once

#include <string>

#include "bundle.hpp"

namespace fer_edge {

// Returns why release `tensorrt` (three numbers) cannot load a plan on compute capability `sm` (87
// for 8.7), or "". Error(integrity): the JSON (fer_edge/trt/sidecar.py) is missing, damaged or of
// another plan.
[[nodiscard]] std::string plan_misfit(const Bundle& bundle, const Artifact& plan,
                                      const std::string& tensorrt, int sm);

}  // namespace fer_edge
