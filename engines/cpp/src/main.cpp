// fer-edge-run: classify faces with a bundle, without Python.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>

#include "engine.hpp"
#include "errors.hpp"
#include "options.hpp"
#include "self_test.hpp"
#include "statistics.hpp"

namespace fer_edge {
namespace {

// Keeps the order of its fields: a line reads file, label, confidence ...
using Json = nlohmann::ordered_json;

void print(const Json& line) {
  // A file name need not be UTF-8; a byte that is not becomes U+FFFD.
  std::cout << line.dump(-1, ' ', false, Json::error_handler_t::replace) << '\n';
}

std::string names(const std::vector<EngineKind>& kinds) {
  std::string all;
  for (const EngineKind& kind : kinds) all += (all.empty() ? "" : ", ") + std::string(kind.name);
  return all.empty() ? "none" : all;
}

// The best precision in the bundle that did not fail its gate; empty if there is none.
std::string best_precision(const EngineKind& kind, const Bundle& bundle) {
  for (const char* precision : {"int8", "fp16", "fp32"}) {
    if (kind.has(bundle, precision) && !bundle.failed_gate(precision, kind.name)) return precision;
  }
  return "";
}

// Chooses an engine that was asked for, or the first that has something in the bundle.
const EngineKind& choose_engine(const Options& options, const Bundle& bundle) {
  const auto& kinds = engines();
  for (const EngineKind& kind : kinds) {
    if (options.engine.empty()) {
      const bool usable = options.precision.empty() ? !best_precision(kind, bundle).empty()
                                                    : kind.has(bundle, options.precision);
      if (usable) return kind;
    } else if (options.engine == kind.name) {
      return kind;
    }
  }
  if (!options.engine.empty()) {
    throw Error(options.engine == "tensorrt" || options.engine == "openvino" ? Exit::environment
                                                                             : Exit::usage,
                "this runner was built without the engine '" + options.engine + "'; it has " +
                    names(kinds),
                "engines/cpp/README.md says how to build it");
  }
  throw Error(Exit::usage,
              bundle.path().string() + " has no " +
                  (options.precision.empty() ? "usable" : options.precision) +
                  " file for the engines of this runner (" + names(kinds) + ")",
              "fer-edge build --precision " +
                  (options.precision.empty() ? "int8" : options.precision) + " --target " +
                  (kinds.empty() ? "openvino" : kinds.front().name));
}

EngineOptions engine_options(const Options& options, const EngineKind& kind,
                             const Bundle& bundle) {
  EngineOptions chosen{options.precision, options.threads, options.cuda_graph};
  if (chosen.precision.empty()) chosen.precision = best_precision(kind, bundle);
  if (chosen.precision.empty() || !kind.has(bundle, chosen.precision)) {
    const std::string precision = chosen.precision.empty() ? "int8" : chosen.precision;
    throw Error(Exit::usage,
                bundle.path().string() + " has no " +
                    (chosen.precision.empty() ? "usable" : chosen.precision) + " file for " +
                    kind.name,
                "fer-edge build --precision " + precision + " --target " + kind.name);
  }
  return chosen;
}

// Replays the bundle's golden images, one by one as a camera would, and judges the logits.
SelfTest self_test(Engine& engine, const Bundle& bundle, const std::string& precision) {
  const Golden golden = bundle.golden();
  std::vector<Logits> logits(golden.images.size());
  for (std::size_t i = 0; i < logits.size(); ++i) engine.infer(golden.images[i], logits[i]);
  return judge_self_test(logits, golden.logits, precision,
                         engine.provider() + " " + precision + " (" + engine.model() + ")");
}

Json prediction(const NamedImage& image, const Logits& probabilities, std::int64_t ns,
                const std::vector<std::string>& labels) {
  const auto best = static_cast<std::size_t>(
      std::max_element(probabilities.begin(), probabilities.end()) - probabilities.begin());
  Json all = Json::object();
  for (std::size_t i = 0; i < labels.size(); ++i) all[labels[i]] = probabilities[i];
  return {{"file", image.file},
          {"label", labels[best]},
          {"confidence", probabilities[best]},
          {"probabilities", all},
          {"latency_ms", static_cast<double>(ns) / 1e6}};
}

// Classifies every image `repeat` times, prints each once, and returns all latencies: from the
// pixels in memory to the seven probabilities.
std::vector<std::int64_t> classify(Engine& engine, const std::vector<NamedImage>& images,
                                   const Bundle& bundle, int repeat) {
  std::vector<std::int64_t> latencies;
  for (int pass = 0; pass < repeat; ++pass) {
    for (const NamedImage& image : images) {
      Logits logits{};
      const auto start = std::chrono::steady_clock::now();
      engine.infer(image.pixels, logits);
      const Logits probabilities = softmax(logits);
      const auto stop = std::chrono::steady_clock::now();
      latencies.push_back(
          std::chrono::duration_cast<std::chrono::nanoseconds>(stop - start).count());
      if (pass == 0) print(prediction(image, probabilities, latencies.back(), bundle.labels()));
    }
  }
  return latencies;
}

Json summary(const std::vector<std::int64_t>& latencies) {
  Json line = {{"n", latencies.size()}};
  for (const int percent : {50, 90, 99}) {
    const auto value = percentile_ms(latencies, percent);
    line["p" + std::to_string(percent) + "_ms"] = value ? Json(*value) : Json(nullptr);
  }
  return line;
}

int run(int argc, char** argv) {
  const Options options = options_from(argc, argv);
  if (options.help) {
    std::cout << kHelp;
    return 0;
  }
  if (options.version) {
    std::cout << "fer-edge-run " FER_EDGE_VERSION "\n";
    for (const EngineKind& kind : engines()) {
      std::cout << kind.name << ' ' << kind.version << '\n';
    }
    return 0;
  }
  const std::vector<NamedImage> images = read_images(options.inputs);
  const Bundle bundle = Bundle::open(options.bundle);
  const EngineKind& kind = choose_engine(options, bundle);
  const EngineOptions chosen = engine_options(options, kind, bundle);
  const std::unique_ptr<Engine> engine = kind.load(bundle, chosen);
  const SelfTest test = self_test(*engine, bundle, chosen.precision);

  Json line = summary(classify(*engine, images, bundle, options.repeat));
  line["bundle"] = bundle.name();
  line["engine"] = kind.name;
  line["provider"] = engine->provider();
  line["precision"] = chosen.precision;
  line["model"] = engine->model();
  line["threads"] = options.threads;
  line["self_test"] = {{"images", test.count},
                       {"max_abs_logit", test.max_abs},
                       {"typical_abs_logit", test.typical_abs},
                       {"correlation", test.correlation},
                       {"sure_agreement", test.sure_agreement}};
  print(line);
  std::cout.flush();
  if (!std::cout) throw Error(Exit::environment, "the output cannot be written");
  return 0;
}

}  // namespace
}  // namespace fer_edge

int main(int argc, char** argv) {
  try {
    return fer_edge::run(argc, argv);
  } catch (const fer_edge::Error& error) {
    std::cout.flush();
    std::cerr << "error: " << error.what() << '\n';
    if (!error.fix().empty()) std::cerr << "fix:   " << error.fix() << '\n';
    return error.exit_code();
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
