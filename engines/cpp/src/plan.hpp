// The JSON beside a TensorRT plan: the release that built it and the GPU that it was built for.
#pragma once

#include <stdexcept>
#include <string>

#include "bundle.hpp"

namespace fer_edge {

// The JSON beside a plan is damaged, or of another plan.
class BadSidecar : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Returns what plan_misfit returns, from the bytes of the JSON beside the plan of `plan_sha256`.
[[nodiscard]] std::string sidecar_misfit(const std::string& content,
                                         const std::string& plan_sha256,
                                         const std::string& tensorrt, int sm);

// Returns why release `tensorrt` (three numbers) cannot load a plan on compute capability `sm` (87
// for 8.7), or "". Error(integrity): the JSON (fer_edge/trt/sidecar.py) is missing, damaged or of
// another plan.
[[nodiscard]] std::string plan_misfit(const Bundle& bundle, const Artifact& plan,
                                      const std::string& tensorrt, int sm);

}  // namespace fer_edge
