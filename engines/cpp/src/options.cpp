#include "options.hpp"

#include <charconv>
#include <cstring>
#include <iostream>

#include "errors.hpp"

namespace fer_edge {

const char kHelp[] =
    R"(usage: fer-edge-run [options] BUNDLE [INPUT...]

Classifies 48x48 gray faces with a bundle that fer-edge build made: one JSON line for each image,
then one with the latency percentiles. The bundle's golden self-test runs first; without INPUT it
is all that runs.

  INPUT              a .pgm (P5) or .raw (2,304 bytes) file, or a folder of such files
  --backend NAME     what runs it: tensorrt or openvino (default: the first that was built in and
                     has a usable engine in the bundle)
  --precision P      fp32, fp16 or int8 (default: the best that the bundle has for the backend and
                     whose gate has not failed)
  --threads N        CPU threads of the backend (default: 1)
  --repeat N         classify all inputs N times, for percentiles from few images (default: 1)
  --no-graph         TensorRT: enqueue the network without a CUDA graph
  --choose           print which backend and which engine would be used, and load nothing
  -V, --version      the version, and the backends that this runner was built with
  -h, --help         this text

Example:
  fer-edge-run --precision int8 bundles/compact faces/
)";

namespace {

Error usage(const std::string& message) {
  return Error(Exit::usage, message, "fer-edge-run --help");
}

int positive(const std::string& option, const char* text) {
  int value = 0;
  const char* end = text + std::strlen(text);
  const auto [stop, failed] = std::from_chars(text, end, value);
  if (failed != std::errc() || stop != end || value < 1) {
    throw usage(option + " takes a number of at least 1, not '" + text + "'");
  }
  return value;
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
      if (word == "--engine") std::cerr << "note: --engine is deprecated: use --backend\n";
    } else if (word == "--choose") {
      options.choose = true;
    } else if (word == "--precision") {
      options.precision = value();
      if (options.precision != "fp32" && options.precision != "fp16" &&
          options.precision != "int8") {
        throw usage("--precision is fp32, fp16 or int8, not '" + options.precision + "'");
      }
    } else if (word == "--threads") {
      options.threads = positive(word, value());
    } else if (word == "--repeat") {
      options.repeat = positive(word, value());
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
  if (options.bundle.empty() && !options.help && !options.version) throw usage("no BUNDLE is given");
  return options;
}

}  // namespace fer_edge
