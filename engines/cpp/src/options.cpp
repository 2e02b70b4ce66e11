#include "options.hpp"

#include <charconv>
#include <cstring>
#include <iostream>

#include "errors.hpp"

namespace fer_edge {

const char kHelp[] =
    R"(usage: fer-edge-run [options] BUNDLE [INPUT...]

Classifies 48x48 gray faces with a bundle made by fer-edge build. Prints one JSON line for each
image, then one line with the latency percentiles. The bundle's golden self-test runs first.
Without INPUT, only the self-test runs.

  INPUT              a .pgm (P5) or .raw (2,304 bytes) file, or a folder of such files
  --backend NAME     the backend: tensorrt, openvino or tensorrt-dla (default: the first of tensorrt,
                     openvino that this runner was built with and that has a usable engine in the
                     bundle)
  --precision P      fp32, fp16 or int8 (default: the first of int8, fp16, fp32 that the bundle
                     has for the backend and whose gate has not failed)
  --threads N        CPU threads of the backend (default: 1)
  --repeat N         classify all inputs N times, to get percentiles from few images (default: 1)
  --no-graph         TensorRT: run the network without a CUDA graph
  --memory M         TensorRT: copied; mapped (it reads and writes the memory of the CPU, for boards
                     whose GPU shares it); auto (default: what was faster when the plan was built)
  --wait W           TensorRT: how the CPU waits for the GPU: spin (an answer comes at once, a core is
                     busy), block (sleeps) or auto (default: as CUDA chooses)
  --dla-core N       TensorRT: run a plan of a DLA on this core, 0 or 1 (default: the one that it
                     was built for)
  --choose           print which backend and engine would be used, and load nothing
  -V, --version      print the version, and the backends that this runner was built with
  -h, --help         print this text

Example:
  fer-edge-run --precision int8 bundles/compact faces/
)";

namespace {

constexpr char kTensorRt[] = "tensorrt";
constexpr char kOpenVino[] = "openvino";
constexpr char kDla[] = "tensorrt-dla";

Error usage(const std::string& message) {
  return Error(Exit::usage, message, "fer-edge-run --help");
}

int positive(const std::string& option, const char* text) {
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, failed] = std::from_chars(text, end, value);
  if (failed != std::errc() || stop != end || value < 1) {
    throw usage(option + " must be a whole number of at least 1, not '" + text + "'");
  }
  return value;
}

std::string one_of(const std::string& option, const std::string& text,
                   const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) {
    if (text == word) return text;
    all += (all.empty() ? "" : ", ") + word;
  }
  throw Error(Exit::usage, option + " has no value '" + text + "'", "choose from: " + all);
}

}  // namespace

Options options_from(int argc, char** argv) {
  Options options;
  bool only_files = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] {
      if (++i >= argc) throw usage(word + " needs a value");
      return argv[i];
    };
    if (only_files || word.empty() || word[0] != '-') {
      if (options.bundle.empty()) {
        options.bundle = word;
      } else {
        options.inputs.push_back(word);
      }
    } else if (word == "--") {
      only_files = true;
    } else if (word == "--backend" || word == "--engine") {
      options.backend = value();
      if (options.backend != kTensorRt && options.backend != kOpenVino && options.backend != kDla) {
        throw Error(Exit::usage,
                    options.backend == "litert"
                        ? "this runner has no LiteRT: it runs no .tflite file of a bundle"
                        : "unknown backend '" + options.backend + "'",
                    std::string("choose from: ") + kTensorRt + ", " + kOpenVino + ", " + kDla);
      }
      if (word == "--engine") std::cerr << "note: --engine is deprecated: use --backend\n";
    } else if (word == "--choose") {
      options.choose = true;
    } else if (word == "--precision") {
      options.precision = value();
      if (options.precision != "fp32" && options.precision != "fp16" &&
          options.precision != "int8") {
        throw usage("--precision must be fp32, fp16 or int8, not '" + options.precision + "'");
      }
    } else if (word == "--threads") {
      options.threads = positive(word, value());
    } else if (word == "--repeat") {
      options.repeat = positive(word, value());
    } else if (word == "--memory") {
      options.memory = one_of(word, value(), {"auto", "copied", "mapped"});
    } else if (word == "--wait") {
      options.wait = one_of(word, value(), {"auto", "spin", "block"});
    } else if (word == "--dla-core") {
      options.dla_core = one_of(word, value(), {"0", "1"}) == "1" ? 1 : 0;
    } else if (word == "--no-graph") {
      options.cuda_graph = false;
    } else if (word == "-h" || word == "--help") {
      options.help = true;
    } else if (word == "-V" || word == "--version") {
      options.version = true;
    } else {
      throw usage("unknown option " + word);
    }
  }
  if (options.bundle.empty() && !options.help && !options.version) throw usage("BUNDLE is missing");
  return options;
}

}  // namespace fer_edge
