// One way to run a network: one 48x48 image in, seven logits out, synchronously.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace fer_edge {

struct EngineOptions {
  int threads = 1;  // what the engine may use on the CPU
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

// A row of the table of backends that this runner was built with. Its name is also the placement
// of the INT8 graph that it takes, or that its plans are built from.
struct BackendKind {
  const char* name;
  const char* version;
  bool plans;  // it runs plans, not graphs
  // Why this machine cannot load an engine, or nothing; null for a backend that loads all.
  std::string (*misfit)(const Bundle& bundle, const Artifact& engine);
  // Loads an engine; Error(environment) where this machine cannot, Error(integrity) for damage.
  std::unique_ptr<Engine> (*load)(const Bundle& bundle, const Artifact& engine,
                                  const EngineOptions& options);
};

[[nodiscard]] const std::vector<BackendKind>& backends();

// The first line of a library's message: errors here are one line.
[[nodiscard]] std::string first_line(const std::string& text);

}  // namespace fer_edge
