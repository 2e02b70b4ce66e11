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

// A TensorRT release and a GPU. `sm` is 87 for 8.7. The sizes are those of the GPU; 0 is unknown.
struct Device {
  std::string tensorrt;
  int sm = 0;
  int multiprocessors = 0;
  int memory_mib = 0;
};

// What the JSON beside a plan says about a device.
struct PlanFit {
  // Why the device cannot load the plan, or "". Release numbers are compared as in
  // same_release of fer_edge/trt/library.py: four if both are known, else three.
  std::string misfit;
  // How the device that the plan was built on differs in size, or "". The plan loads nevertheless.
  std::string difference;
  // The plan was faster with mapped memory when it was built, on a device of these sizes.
  bool mapped = false;
  // The DLA core that the plan was built for; -1: a plan of the GPU.
  int dla_core = -1;
};

// Reads the JSON beside the plan of `plan_sha256`, which is `content`.
[[nodiscard]] PlanFit sidecar_fit(const std::string& content, const std::string& plan_sha256,
                                  const Device& here);

// Error(integrity): the JSON (fer_edge/trt/sidecar.py) is missing, damaged or of another plan.
[[nodiscard]] PlanFit plan_fit(const Bundle& bundle, const Artifact& plan, const Device& here);

}  // namespace fer_edge
