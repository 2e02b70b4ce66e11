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

// Returns the engine that `backend` uses; loads nothing. With a `precision`, that one is used also
// if its gate failed. With an empty one, it is the first of INT8, FP16, FP32 whose gate has not
// failed and that this machine can load. Error(usage): there is none; Error(environment): the plans
// are for other devices; Error(integrity): the JSON beside a plan is damaged.
[[nodiscard]] UsableEngine usable_engine(const Bundle& bundle, const BackendKind& backend,
                                         const std::string& precision);

}  // namespace fer_edge
