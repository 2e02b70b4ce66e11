// TensorRT plans in a bundle's engines/ folder, each with a JSON beside it that says what built it.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace fer_edge {

// The fields of fer_edge/backends/plan_sidecar.py that decide whether a plan may be loaded.
struct Plan {
  std::filesystem::path file;
  std::string tensorrt;  // the version that built it, three numbers
  int sm = 0;            // the compute capability it was built for, 87 for 8.7
  std::string precision;
  std::string sha256;
  std::string parent_sha256;  // of the ONNX that it was built from
};

// Returns the TensorRT plans of the bundle, sorted by name: files *.plan with a JSON beside them
// that says TensorRT proper (TensorRT-RTX's plans are another library's) built them.
[[nodiscard]] std::vector<Plan> find_plans(const Bundle& bundle);

// Chooses the plan of `precision` that `tensorrt` (three numbers) can load on compute capability
// `sm`. Error(environment) says what there is instead, and the command that builds one.
[[nodiscard]] Plan choose_plan(const Bundle& bundle, const std::string& precision,
                               const std::string& tensorrt, int sm);

// Returns the plan's bytes. Error(integrity) unless they are those that its JSON describes and were
// built from an ONNX that this bundle lists.
[[nodiscard]] std::string read_plan(const Bundle& bundle, const Plan& plan);

}  // namespace fer_edge
