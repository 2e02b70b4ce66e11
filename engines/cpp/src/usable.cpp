#include "usable.hpp"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "cpu.hpp"
#include "errors.hpp"

namespace fer_edge {
namespace {

using Words = std::vector<std::string>;

std::string joined(const Words& words, const char* separator) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : separator) + word;
  return all;
}

// The graphs that a backend runs, or that its plans are built from.
std::vector<Artifact> graphs_of(const Bundle& bundle, const BackendKind& backend,
                                const std::string& precision) {
  // An INT8 graph has the placement of one backend; other backends never take it.
  return bundle.graphs(precision, precision == "int8" ? backend.placement : "");
}

// The files of one precision that the backend can run, for this machine or another. Of several
// graphs, the one whose weights fit this CPU comes first.
std::vector<Artifact> engines_of(const Bundle& bundle, const BackendKind& backend,
                                 const std::string& precision) {
  std::vector<Artifact> found;
  if (!backend.plans) {
    found = graphs_of(bundle, backend, precision);
    const std::string wanted = fitting_weights();
    std::stable_partition(found.begin(), found.end(), [&](const Artifact& graph) {
      return graph.weights == wanted;
    });
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

// Whether a device kept the FP16 plan, since INT8 is not faster there.
bool chose_fp16(const Bundle& bundle, const BackendKind& backend) {
  const std::vector<Artifact> plans = engines_of(bundle, backend, "fp16");
  return std::any_of(plans.begin(), plans.end(),
                     [](const Artifact& plan) { return plan.chosen; });
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
  const std::string wanted = precision.empty() || backend.dla ? "int8" : precision;
  std::string fix = bundle.build_command(wanted, backend.name);
  if (backend.plans && precision == "int8" && chose_fp16(bundle, backend)) {
    message += ": its FP16 plan was chosen instead";
    if (fix.rfind("fer-edge ", 0) == 0) fix += " --no-speed";
  }
  return Error(Exit::usage, message, fix);
}

}  // namespace

UsableEngine usable_engine(const Bundle& bundle, const BackendKind& backend,
                           const std::string& precision) {
  const Words best_first = backend.dla ? Words{"int8"} : Words{"int8", "fp16", "fp32"};
  const Words asked = precision.empty() ? best_first : Words{precision};
  Words failed;
  Words candidates;
  std::vector<std::vector<Artifact>> engines;
  const auto is_failed = [&](const Artifact& each) {
    return precision.empty() && bundle.failed_gate(each, backend.placement);
  };
  for (const std::string& each : asked) {
    std::vector<Artifact> found = engines_of(bundle, backend, each);
    // A graph without its plan counts: the error then names the missing plan.
    const std::vector<Artifact> graphs = graphs_of(bundle, backend, each);
    if (found.empty() && graphs.empty()) continue;
    found.erase(std::remove_if(found.begin(), found.end(), is_failed), found.end());
    if (found.empty() && std::all_of(graphs.begin(), graphs.end(), is_failed)) {
      failed.push_back(each);
      continue;
    }
    candidates.push_back(each);
    engines.push_back(std::move(found));
  }
  if (candidates.empty() && !failed.empty()) {
    throw Error(Exit::usage,
                "every engine of " + bundle.path().string() + " for " + backend.name +
                    " failed its gate: " + joined(failed, ", "),
                "to use one anyway, name its precision: --precision " + failed.back());
  }
  std::optional<Error> misfits;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const std::string& each = candidates[i];
    Words reasons;
    std::vector<Artifact> fitting;
    for (const Artifact& artifact : engines[i]) {
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
