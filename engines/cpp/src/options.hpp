// The command line of fer-edge-run.
#pragma once

#include <string>
#include <vector>

namespace fer_edge {

struct Options {
  std::string bundle;
  std::vector<std::string> inputs;
  std::string engine;     // empty: the first that is built in and has a file in the bundle
  std::string precision;  // empty: the best there is, int8 before fp16 before fp32
  int threads = 1;
  int repeat = 1;
  bool cuda_graph = true;
  bool help = false;
  bool version = false;
};

// Error(usage) for anything that is not understood.
[[nodiscard]] Options options_from(int argc, char** argv);

extern const char kHelp[];

}  // namespace fer_edge
