// fer-edge-run: classify faces with a bundle, without Python.
#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine.hpp"
#include "errors.hpp"
#include "options.hpp"
#include "self_test.hpp"
#include "statistics.hpp"
#include "usable.hpp"

namespace fer_edge {
namespace {

// Keeps the order of the fields in a line: file, label, confidence, ...
using Json = nlohmann::ordered_json;

void print(const Json& line) {
  // A file name may contain bytes that are not UTF-8; such a byte becomes U+FFFD.
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace);
  std::cout << printable_json(text) << '\n';
}

std::string names(const std::vector<BackendKind>& kinds) {
  std::string all;
  for (const BackendKind& kind : kinds) all += (all.empty() ? "" : ", ") + std::string(kind.name);
  return all.empty() ? "none" : all;
}

struct Choice {
  const BackendKind& backend;
  UsableEngine engine;
};

// Chooses the backend of --backend, else the first backend with a usable engine, and its engine.
Choice choose(const Options& options, const Bundle& bundle) {
  const bool any = options.backend.empty();
  std::optional<Error> why_not;
  for (const BackendKind& kind : backends()) {
    if (any ? kind.dla : options.backend != kind.name) continue;
    try {
      return {kind, usable_engine(bundle, kind, options.precision)};
    } catch (const Error& error) {
      // Plans that do not fit this machine are an error. Without any plan, try the next backend.
      if (!any || error.exit_code() != static_cast<int>(Exit::usage)) throw;
      if (!why_not) why_not = error;
    }
  }
  if (why_not) throw *why_not;
  throw Error(Exit::environment,
              "this runner was built without the backend '" + options.backend + "'; it has " +
                  names(backends()),
              "build it with this backend: see engines/cpp/README.md");
}

// Runs the bundle's golden images, one at a time as from a camera, and judges the logits.
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

// Classifies every image `repeat` times, prints each once, and returns all latencies. A latency is
// the time from the pixels in memory to the probabilities.
std::vector<std::int64_t> classify(Engine& engine, const std::vector<NamedImage>& images,
                                   const Bundle& bundle, int repeat) {
  std::vector<std::int64_t> latencies;
  for (int pass = 0; pass < repeat; ++pass) {
    for (const NamedImage& image : images) {
      Logits logits(bundle.labels().size());
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
    for (const BackendKind& kind : backends()) {
      std::cout << kind.name << ' ' << kind.version << '\n';
    }
    return 0;
  }
  const std::vector<NamedImage> images = read_images(options.inputs);
  const Bundle bundle = Bundle::open(options.bundle);
  const auto [kind, chosen] = choose(options, bundle);
  if (options.choose) {
    print({{"backend", kind.name},
           {"precision", chosen.precision},
           {"model", chosen.artifact.path}});
    return 0;
  }
  const std::unique_ptr<Engine> engine =
      kind.load(bundle, chosen.artifact, {options.threads, options.cuda_graph, options.memory,
                                         options.wait, options.dla_core});
  const SelfTest test = self_test(*engine, bundle, chosen.precision);

  Json line = summary(classify(*engine, images, bundle, options.repeat));
  line["bundle"] = bundle.name();
  line["backend"] = kind.name;
  line["engine"] = kind.name;  // the old name of the field "backend"
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
  if (!std::cout) throw Error(Exit::environment, "cannot write to stdout");
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
    std::cerr << "error: " << fer_edge::printable(error.what()) << '\n';
    return 1;
  }
}
