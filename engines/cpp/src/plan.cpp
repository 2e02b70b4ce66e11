#include "plan.hpp"

#include <algorithm>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "errors.hpp"

namespace fer_edge {
namespace {

using nlohmann::json;

constexpr int kSchema = 1;
constexpr std::uint64_t kLargestSidecar = 16 << 20;

// Major, minor, patch, build: at most four numbers.
std::vector<std::string> numbers(const std::string& version) {
  std::vector<std::string> found(1);
  for (const char letter : version) {
    if (letter >= '0' && letter <= '9') {
      found.back() += letter;
    } else if (!found.back().empty()) {
      if (found.size() == 4) break;
      found.emplace_back();
    }
  }
  if (found.back().empty()) found.pop_back();
  return found;
}

// "10.3" and "10.03.0" are the same release; without a build number three numbers decide.
bool same_release(const std::string& one, const std::string& other) {
  auto first = numbers(one);
  auto second = numbers(other);
  const std::size_t known =
      std::min(std::max<std::size_t>(first.size(), 3), std::max<std::size_t>(second.size(), 3));
  const auto plain = [known](std::vector<std::string>& list) {
    list.resize(std::max(list.size(), known), "0");
    list.resize(known);
    for (std::string& number : list) {
      number.erase(0, std::min(number.find_first_not_of('0'), number.size() - 1));
    }
  };
  plain(first);
  plain(second);
  return first == second;
}

// Memory that the system keeps for itself differs between releases: at most by a fifth.
bool same_memory(std::int64_t one, std::int64_t other) {
  const std::int64_t larger = std::max(one, other);
  return larger - std::min(one, other) <= larger / 5;
}

std::string sizes(std::int64_t multiprocessors, std::int64_t memory_mib) {
  return std::to_string(multiprocessors) + " SMs, " + std::to_string((memory_mib + 512) / 1024) +
         " GiB";
}

}  // namespace

PlanFit plan_fit(const Bundle& bundle, const Artifact& plan, const Device& here) {
  const std::string name =
      std::filesystem::path(plan.path).replace_extension(".json").generic_string();
  const std::string where = (bundle.path() / name).string();
  const auto refuse = [&](const std::string& why) {
    return Error(Exit::integrity, where + ": " + why,
                 bundle.build_command(plan.precision, plan.target));
  };
  const auto sidecar = bundle.find(name);
  if (!sidecar) throw refuse("the manifest of the bundle does not list it");
  if (sidecar->size > kLargestSidecar) throw refuse("it is too large");
  const std::string content = bundle.read(*sidecar);
  try {
    return sidecar_fit(content, plan.sha256, here);
  } catch (const BadSidecar& error) {
    throw refuse(error.what());
  }
}

PlanFit sidecar_fit(const std::string& content, const std::string& plan_sha256,
                    const Device& here) {
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
    PlanFit fit;
    const std::string built = fields.at("tensorrt").get<std::string>();
    const int built_sm = fields.at("sm").get<int>();
    if (!same_release(built, here.tensorrt) || built_sm != here.sm) {
      fit.misfit = "built with TensorRT " + built + " for sm_" + std::to_string(built_sm) +
                   ", this is TensorRT " + here.tensorrt + " on sm_" + std::to_string(here.sm);
      return fit;
    }
    // Files of earlier versions have none of these.
    const int multiprocessors = fields.value("multiprocessors", 0);
    const int memory = fields.value("memory_mib", 0);
    if (multiprocessors > 0 && here.multiprocessors > 0 &&
        (multiprocessors != here.multiprocessors || !same_memory(memory, here.memory_mib))) {
      fit.difference = "built on " + sizes(multiprocessors, memory) + ", this is " +
                       sizes(here.multiprocessors, here.memory_mib);
    }
    fit.mapped = fit.difference.empty() && fields.value("memory", "") == "mapped";
    const auto core = fields.find("dla_core");
    if (core != fields.end() && !core->is_null()) fit.dla_core = core->get<int>();
    return fit;
  } catch (const json::exception& error) {
    throw BadSidecar(error.what());
  }
}

}  // namespace fer_edge
