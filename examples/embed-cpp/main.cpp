// Classifies faces in a program of your own: embed-cpp BUNDLE FACE.pgm...
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "engine.hpp"
#include "errors.hpp"
#include "self_test.hpp"
#include "usable.hpp"

using fer_edge::Error;
using fer_edge::Image;
using fer_edge::Logits;

namespace {

struct Answer {
  std::string label;
  float confidence = 0;
};

// A bundle with one loaded engine. One thread at a time may use it.
class Classifier {
 public:
  explicit Classifier(const std::string& folder) : bundle_(fer_edge::Bundle::open(folder)) {
    // The first backend of this build that has a usable engine in the bundle.
    for (const fer_edge::BackendKind& kind : fer_edge::backends()) {
      if (kind.dla) continue;  // a DLA is used only if it is asked for
      try {
        const fer_edge::UsableEngine chosen = fer_edge::usable_engine(bundle_, kind, "");
        engine_ = kind.load(bundle_, chosen.artifact, fer_edge::EngineOptions{});
        precision_ = chosen.precision;
        break;
      } catch (const Error& error) {
        // No engine for this backend: try the next one. Anything else is an error.
        if (error.exit_code() != static_cast<int>(fer_edge::Exit::usage)) throw;
        if (&kind == &fer_edge::backends().back()) throw;
      }
    }
    self_test();
  }

  [[nodiscard]] Answer operator()(const Image& pixels) {
    engine_->infer(pixels, logits_);
    const Logits probabilities = fer_edge::softmax(logits_);
    const auto best = std::max_element(probabilities.begin(), probabilities.end());
    const auto place = static_cast<std::size_t>(best - probabilities.begin());
    return {bundle_.labels()[place], *best};
  }

  [[nodiscard]] std::string engine() const { return engine_->provider() + " " + precision_; }

 private:
  // Compares the engine with the reference on the bundle's golden images, on this machine.
  void self_test() {
    const fer_edge::Golden golden = bundle_.golden();
    std::vector<Logits> found(golden.images.size());
    for (std::size_t i = 0; i < found.size(); ++i) engine_->infer(golden.images[i], found[i]);
    // Throws Error(numerics) if a limit is exceeded.
    (void)fer_edge::judge_self_test(found, golden.logits, precision_, engine());
  }

  fer_edge::Bundle bundle_;
  std::unique_ptr<fer_edge::Engine> engine_;
  std::string precision_;
  Logits logits_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: embed-cpp BUNDLE FACE.pgm...\n";
    return 2;
  }
  try {
    Classifier classify(argv[1]);
    std::cerr << classify.engine() << '\n';
    for (const auto& [file, pixels] : fer_edge::read_images({argv + 2, argv + argc})) {
      const Answer answer = classify(pixels);
      std::cout << file << ' ' << answer.label << ' ' << answer.confidence << '\n';
    }
    return 0;
  } catch (const Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    if (!error.fix().empty()) std::cerr << "fix:   " << error.fix() << '\n';
    return error.exit_code();
  }
}
