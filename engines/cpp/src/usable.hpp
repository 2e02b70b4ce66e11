// Which engine of a bundle a backend uses: the rule of fer_edge/bundle/usable.py.
// tests/engines/test_cpp_usable.py compares the two over a table of bundles.
#pragma once

#include <string>

#include "bundle.hpp"
#include "engine.hpp"

namespace fer_edge {

struct UsableEngine {
  std::string precision;
  Artifact artifact;
};

// Returns the engine that `backend` uses. A precision that is given is used whatever its gate
// says; without one (empty) it is the first of INT8, FP16, FP32 whose gate has not failed and that
// this machine can load. Loads nothing. Error(usage) where there is none, Error(environment) where
// the plans are for other devices, Error(integrity) where the JSON beside a plan is damaged.
[[nodiscard]] UsableEngine usable_engine(const Bundle& bundle, const BackendKind& backend,
                                         const std::string& precision);

}  // namespace fer_edge
