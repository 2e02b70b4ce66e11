// One way to run a network: one 48x48 image in, seven logits out, synchronously.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace fer_edge {

struct EngineOptions {
  std::string precision;  // "fp32", "fp16" or "int8"
  int threads = 1;        // what the engine may use on the CPU
  bool cuda_graph = true;
};

class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  // Runs one image; the result is complete on return. An engine never times itself.
  virtual void infer(const Image& pixels, Logits& logits) = 0;

  // What really runs the network, and the bundle's file that it runs.
  [[nodiscard]] virtual std::string provider() const = 0;
  [[nodiscard]] virtual std::string model() const = 0;
};

// A row of the table of engines that this runner was built with.
struct EngineKind {
  const char* name;
  const char* version;
  // Whether the bundle holds something of this precision for the engine.
  bool (*has)(const Bundle& bundle, const std::string& precision);
  // Loads it; Error(environment) where this machine cannot, Error(integrity) for damaged files.
  std::unique_ptr<Engine> (*load)(const Bundle& bundle, const EngineOptions& options);
};

[[nodiscard]] const std::vector<EngineKind>& engines();

// The first line of a library's message: errors here are one line.
[[nodiscard]] std::string first_line(const std::string& text);

}  // namespace fer_edge
