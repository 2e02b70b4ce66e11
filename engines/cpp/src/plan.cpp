#include "plan.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <system_error>

#include "errors.hpp"
#include "files.hpp"
#include "sha256.hpp"

namespace fer_edge {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;
constexpr std::uint64_t kLargestSidecar = 4 << 20;
constexpr std::uint64_t kLargestPlan = std::uint64_t{4} << 30;

// "10.13.3.9" is "10.13.3": only these three decide whether a plan loads.
std::string short_version(const std::string& version) {
  std::size_t at = 0;
  for (int dots = 0; at < version.size(); ++at) {
    if (version[at] == '.' && ++dots == 3) break;
  }
  return version.substr(0, at);
}

std::string build_command(const std::string& precision) {
  return "fer-edge build --precision " + precision + " --target tensorrt";
}

std::optional<Plan> plan_from_sidecar(const std::filesystem::path& sidecar) {
  const std::string where = sidecar.string();
  try {
    const json fields =
        json::parse(read_file(sidecar, kLargestSidecar, static_cast<int>(Exit::integrity)));
    if (!fields.is_object() || fields.value("package", "") != "tensorrt") return std::nullopt;
    if (fields.at("schema").get<int>() != kSchema) throw std::runtime_error("of another schema");
    Plan plan;
    plan.file = std::filesystem::path(sidecar).replace_extension(".plan");
    plan.tensorrt = short_version(fields.at("tensorrt").get<std::string>());
    plan.sm = fields.at("sm").get<int>();
    plan.precision = fields.at("precision").get<std::string>();
    plan.sha256 = fields.at("sha256").get<std::string>();
    plan.parent_sha256 = fields.at("parent_sha256").get<std::string>();
    return plan;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    throw Error(Exit::integrity, where + " cannot be read: " + error.what(),
                build_command("int8"));
  }
}

}  // namespace

std::vector<Plan> find_plans(const Bundle& bundle) {
  std::vector<Plan> plans;
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(bundle.path() / "engines", failed), end;
       !failed && entry != end; entry.increment(failed)) {
    if (entry->path().extension() != ".plan") continue;
    const auto sidecar = std::filesystem::path(entry->path()).replace_extension(".json");
    if (!std::filesystem::exists(sidecar)) continue;
    if (auto plan = plan_from_sidecar(sidecar)) plans.push_back(std::move(*plan));
  }
  std::sort(plans.begin(), plans.end(),
            [](const Plan& a, const Plan& b) { return a.file < b.file; });
  return plans;
}

Plan choose_plan(const Bundle& bundle, const std::string& precision, const std::string& tensorrt,
                 int sm) {
  const std::string here = "this is TensorRT " + tensorrt + " on sm_" + std::to_string(sm);
  std::string others;
  for (const Plan& plan : find_plans(bundle)) {
    if (plan.precision != precision) continue;
    if (plan.tensorrt == tensorrt && plan.sm == sm) return plan;
    others = plan.file.string() + " was built with TensorRT " + plan.tensorrt + " for sm_" +
             std::to_string(plan.sm) + ", " + here;
  }
  if (others.empty()) others = bundle.path().string() + " has no " + precision + " plan; " + here;
  throw Error(Exit::environment, others, build_command(precision));
}

std::string read_plan(const Bundle& bundle, const Plan& plan) {
  std::string content = read_file(plan.file, kLargestPlan, static_cast<int>(Exit::integrity));
  if (sha256(content) != plan.sha256) {
    throw Error(Exit::integrity,
                plan.file.string() + " is not the file that the JSON beside it describes",
                build_command(plan.precision));
  }
  const auto& artifacts = bundle.artifacts();
  const bool known =
      std::any_of(artifacts.begin(), artifacts.end(), [&](const Artifact& artifact) {
        return artifact.format == "onnx" && artifact.sha256 == plan.parent_sha256;
      });
  if (!known) {
    throw Error(Exit::integrity,
                plan.file.string() + " was built from an ONNX that is not in this bundle",
                build_command(plan.precision));
  }
  return content;
}

}  // namespace fer_edge
