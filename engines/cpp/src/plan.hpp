// The TensorRT plans of a bundle, each with a JSON beside it that says what built it, for what GPU.
#pragma once

#include <string>
#include <vector>

#include "bundle.hpp"

namespace fer_edge {

// A plan and the fields of its JSON (fer_edge/backends/plan_sidecar.py) that decide whether it may
// be loaded.
struct Plan {
  Artifact artifact;
  std::string tensorrt;  // the version that built it, three numbers
  int sm = 0;            // the compute capability it was built for, 87 for 8.7
};

// Whether the manifest lists a plan of this precision of TensorRT proper (TensorRT-RTX's are for
// another library). No file is read.
[[nodiscard]] bool has_plan(const Bundle& bundle, const std::string& precision);

// Chooses the plan of `precision` that `tensorrt` (three numbers) can load on compute capability
// `sm`. Error(environment) says what there is instead, and the command that builds one;
// Error(integrity) if a JSON is missing, damaged or about another plan.
[[nodiscard]] Plan choose_plan(const Bundle& bundle, const std::string& precision,
                               const std::string& tensorrt, int sm);

}  // namespace fer_edge
