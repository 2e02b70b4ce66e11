#include "plan.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "errors.hpp"

namespace fer_edge {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;

// "10.13.3.9" is "10.13.3": only these three decide whether a plan loads.
std::string short_version(const std::string& version) {
  std::size_t at = 0;
  for (int dots = 0; at < version.size(); ++at) {
    if (version[at] == '.' && ++dots == 3) break;
  }
  return version.substr(0, at);
}

bool is_plan(const Artifact& artifact, const std::string& precision) {
  return artifact.format == "plan" && artifact.target == "tensorrt" &&
         artifact.precision == precision;
}

Plan plan_from(const Bundle& bundle, const Artifact& artifact) {
  const std::string name =
      std::filesystem::path(artifact.path).replace_extension(".json").generic_string();
  const std::string where = (bundle.path() / name).string();
  const auto refuse = [&](const std::string& why) {
    return Error(Exit::integrity, where + ": " + why,
                 "fer-edge build --precision " + artifact.precision + " --target tensorrt");
  };
  const auto sidecar = bundle.find(name);
  if (!sidecar) throw refuse("the bundle does not list it, and so not what built the plan");
  const std::string content = bundle.read(*sidecar);
  try {
    const json fields = json::parse(content);
    if (fields.at("schema").get<int>() != kSchema) throw refuse("it is of another schema");
    if (fields.at("sha256").get<std::string>() != artifact.sha256) {
      throw refuse("it describes another plan");
    }
    return {artifact, short_version(fields.at("tensorrt").get<std::string>()),
            fields.at("sm").get<int>()};
  } catch (const json::exception& error) {
    throw refuse(error.what());
  }
}

}  // namespace

bool has_plan(const Bundle& bundle, const std::string& precision) {
  const auto& artifacts = bundle.artifacts();
  return std::any_of(artifacts.begin(), artifacts.end(),
                     [&](const Artifact& artifact) { return is_plan(artifact, precision); });
}

Plan choose_plan(const Bundle& bundle, const std::string& precision, const std::string& tensorrt,
                 int sm) {
  std::string others;
  for (const Artifact& artifact : bundle.artifacts()) {
    if (!is_plan(artifact, precision)) continue;
    const Plan plan = plan_from(bundle, artifact);
    if (plan.tensorrt == tensorrt && plan.sm == sm) return plan;
    others += artifact.path + " was built with TensorRT " + plan.tensorrt + " for sm_" +
              std::to_string(plan.sm) + ", ";
  }
  if (others.empty()) others = bundle.path().string() + " has no " + precision + " plan; ";
  throw Error(Exit::environment,
              others + "this is TensorRT " + tensorrt + " on sm_" + std::to_string(sm),
              "fer-edge build " + bundle.path().string() + " --precision " + precision +
                  " --target tensorrt");
}

}  // namespace fer_edge
