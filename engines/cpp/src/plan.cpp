#include "plan.hpp"

#include <nlohmann/json.hpp>

#include "errors.hpp"

namespace fer_edge {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;
constexpr std::uint64_t kLargestSidecar = 16 << 20;

// "10.13.3.9" becomes "10.13.3": only these three numbers decide whether a plan loads.
std::string short_version(const std::string& version) {
  std::size_t at = 0;
  for (int dots = 0; at < version.size(); ++at) {
    if (version[at] == '.' && ++dots == 3) break;
  }
  return version.substr(0, at);
}

}  // namespace

std::string plan_misfit(const Bundle& bundle, const Artifact& plan, const std::string& tensorrt,
                        int sm) {
  const std::string name =
      std::filesystem::path(plan.path).replace_extension(".json").generic_string();
  const std::string where = (bundle.path() / name).string();
  const auto refuse = [&](const std::string& why) {
    return Error(Exit::integrity, where + ": " + why,
                 bundle.build_command(plan.precision, "tensorrt"));
  };
  const auto sidecar = bundle.find(name);
  if (!sidecar) throw refuse("the manifest of the bundle does not list it");
  if (sidecar->size > kLargestSidecar) throw refuse("it is too large");
  const std::string content = bundle.read(*sidecar);
  try {
    return sidecar_misfit(content, plan.sha256, tensorrt, sm);
  } catch (const BadSidecar& error) {
    throw refuse(error.what());
  }
}

std::string sidecar_misfit(const std::string& content, const std::string& plan_sha256,
                           const std::string& tensorrt, int sm) {
  try {
    const json fields = json::parse(content);
    const int schema = fields.at("schema").get<int>();
    if (schema != kSchema) {
      throw BadSidecar("it has schema " + std::to_string(schema) + ", this runner reads schema " +
                       std::to_string(kSchema));
    }
    if (fields.at("sha256").get<std::string>() != plan_sha256) {
      throw BadSidecar("it describes another plan");
    }
    const std::string built = short_version(fields.at("tensorrt").get<std::string>());
    const int built_sm = fields.at("sm").get<int>();
    if (built == tensorrt && built_sm == sm) return "";
    return "built with TensorRT " + built + " for sm_" + std::to_string(built_sm) +
           ", this is TensorRT " + tensorrt + " on sm_" + std::to_string(sm);
  } catch (const json::exception& error) {
    throw BadSidecar(error.what());
  }
}

}  // namespace fer_edge
