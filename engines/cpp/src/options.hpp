// The command line of fer-edge-run.
#pragma once

#include <string>
#include <vector>

namespace fer_edge {

struct Options {
  std::string bundle;
  std::vector<std::string> inputs;
  std::string backend;    // empty: the first that was built in and has a usable engine
  std::string precision;  // empty: the first of int8, fp16, fp32 whose gate has not failed
  int threads = 1;
  int repeat = 1;
  bool cuda_graph = true;
  std::string memory = "auto";
  std::string wait = "auto";
  int dla_core = -1;  // the one that the plan was built for
  bool choose = false;
  bool help = false;
  bool version = false;
};

// Error(usage) for an unknown option, an unknown value or a missing value.
[[nodiscard]] Options options_from(int argc, char** argv);

extern const char kHelp[];

}  // namespace fer_edge
