// The interface of the backends: one 48x48 image in, a logit per class out, synchronously.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"

namespace fer_edge {

struct EngineOptions {
  int threads = 1;  // CPU threads that the engine may use
  bool cuda_graph = true;
  std::string memory = "auto";  // TensorRT: copied, mapped, or what the plan was faster with
  std::string wait = "auto";    // TensorRT: how a thread waits for the GPU: spin, block, or CUDA's choice
  int dla_core = -1;  // TensorRT: the core for a plan of a DLA; -1 is the one that it was built for
};

class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  // Runs one image and resizes `logits` to the number of classes; the result is complete on return.
  // An engine never measures its own time.
  virtual void infer(const Image& pixels, Logits& logits) = 0;

  // The library and device that run the network, and the path of the file in the bundle.
  [[nodiscard]] virtual std::string provider() const = 0;
  [[nodiscard]] virtual std::string model() const = 0;
};

// One backend that this runner was built with. `placement` is that of the INT8 graph that it runs, or
// that its plans are built from.
struct BackendKind {
  const char* name;
  const char* version;
  const char* placement;
  bool plans;  // true: it runs plans; false: it runs graphs
  bool dla;    // true: it has INT8 only, and is used only if its name is given
  // Returns why this machine cannot load an engine, or "". Null: the backend loads every engine.
  std::string (*misfit)(const Bundle& bundle, const Artifact& engine);
  // Returns how the machine that an engine was tuned for differs from this one, or "". Null: never.
  std::string (*differs)(const Bundle& bundle, const Artifact& engine);
  // Loads an engine. Error(environment): this machine cannot; Error(integrity): it is damaged.
  std::unique_ptr<Engine> (*load)(const Bundle& bundle, const Artifact& engine,
                                  const EngineOptions& options);
};

[[nodiscard]] const std::vector<BackendKind>& backends();

// The first line of a library's message, since an error of this program has one line.
[[nodiscard]] std::string first_line(const std::string& text);

}  // namespace fer_edge
