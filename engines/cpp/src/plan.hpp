// The JSON beside a TensorRT plan, which says what built it and for what GPU.
#pragma once

#include <string>

#include "bundle.hpp"

namespace fer_edge {

// Returns why `tensorrt` (three numbers) cannot load a plan on compute capability `sm` (87 for
// 8.7), or nothing. Error(integrity) if the JSON (fer_edge/trt/sidecar.py) is missing,
// damaged or about another plan.
[[nodiscard]] std::string plan_misfit(const Bundle& bundle, const Artifact& plan,
                                      const std::string& tensorrt, int sm);

}  // namespace fer_edge
