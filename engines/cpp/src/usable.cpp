#include "usable.hpp"

#include <algorithm>
#include <optional>
#include <vector>

#include "errors.hpp"

namespace fer_edge {
namespace {

using Words = std::vector<std::string>;

std::string joined(const Words& words, const char* separator) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : separator) + word;
  return all;
}

std::optional<Artifact> graph_of(const Bundle& bundle, const BackendKind& backend,
                                 const std::string& precision) {
  // An INT8 graph has the placement of one backend; other backends never take it.
  return bundle.find("onnx", precision, precision == "int8" ? backend.name : "");
}

// The files of one precision that the backend can run, for this machine or another.
std::vector<Artifact> engines_of(const Bundle& bundle, const BackendKind& backend,
                                 const std::string& precision) {
  std::vector<Artifact> found;
  if (!backend.plans) {
    if (const auto graph = graph_of(bundle, backend, precision)) found.push_back(*graph);
    return found;
  }
  for (const Artifact& artifact : bundle.artifacts()) {
    if (artifact.format == "plan" && artifact.target == backend.name &&
        artifact.precision == precision) {
      found.push_back(artifact);
    }
  }
  return found;
}

// Returns the first engine that was tuned for this machine, else the first.
Artifact tuned_for_here(const Bundle& bundle, const BackendKind& backend,
                        const std::vector<Artifact>& fitting) {
  if (fitting.size() > 1 && backend.differs != nullptr) {
    for (const Artifact& artifact : fitting) {
      if (backend.differs(bundle, artifact).empty()) return artifact;
    }
  }
  return fitting.front();
}

Error missing(const Bundle& bundle, const BackendKind& backend, const std::string& precision,
              const Words& failed) {
  std::string message = bundle.path().string() + " has no " +
                        (precision.empty() ? "" : precision + " ") +
                        (backend.plans ? "plan" : "graph") + " for " + backend.name;
  if (!failed.empty()) message += " (" + joined(failed, ", ") + " failed the gate)";
  if (!backend.plans) {
    Words files;
    for (const Artifact& artifact : bundle.artifacts()) files.push_back(artifact.path);
    message += "; it has: " + (files.empty() ? "nothing" : joined(files, ", "));
  }
  return Error(Exit::usage, message,
               bundle.build_command(precision.empty() ? "int8" : precision, backend.name));
}

}  // namespace

UsableEngine usable_engine(const Bundle& bundle, const BackendKind& backend,
                           const std::string& precision) {
  const Words asked = precision.empty() ? Words{"int8", "fp16", "fp32"} : Words{precision};
  Words failed;
  Words candidates;
  for (const std::string& each : asked) {
    // A graph without its plan counts: the error then names the missing plan.
    if (engines_of(bundle, backend, each).empty() && !graph_of(bundle, backend, each)) continue;
    const bool refused = precision.empty() && bundle.failed_gate(each, backend.name);
    (refused ? failed : candidates).push_back(each);
  }
  if (candidates.empty() && !failed.empty()) {
    throw Error(Exit::usage,
                "every engine of " + bundle.path().string() + " for " + backend.name +
                    " failed its gate: " + joined(failed, ", "),
                "to use one anyway, name its precision: --precision " + failed.back());
  }
  std::optional<Error> misfits;
  for (const std::string& each : candidates) {
    Words reasons;
    std::vector<Artifact> fitting;
    for (const Artifact& artifact : engines_of(bundle, backend, each)) {
      const std::string reason =
          backend.misfit == nullptr ? "" : backend.misfit(bundle, artifact);
      if (reason.empty()) {
        fitting.push_back(artifact);
      } else {
        reasons.push_back(artifact.path + " was " + reason);
      }
    }
    if (!fitting.empty()) return {each, tuned_for_here(bundle, backend, fitting)};
    if (!reasons.empty() && !misfits) {
      misfits = Error(Exit::environment, joined(reasons, "; "),
                      bundle.build_command(each, backend.name));
    }
  }
  if (misfits) throw *misfits;
  throw missing(bundle, backend, candidates.empty() ? precision : candidates.front(), failed);
}

}  // namespace fer_edge
