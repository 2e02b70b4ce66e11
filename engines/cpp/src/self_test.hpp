// The golden self-test: about 32 synthetic images, with the logits of the FP32 reference.
// The measures and limits are those of fer_edge/backends/selftest.py.
#pragma once

#include <string>
#include <vector>

#include "numerics.hpp"

namespace fer_edge {

// The differences between the logits of an engine and of the reference on the golden images.
struct SelfTest {
  std::size_t count = 0;
  double max_abs = 0;
  double typical_abs = 0;     // median over images of their mean |delta logit|
  double spread = 0;          // standard deviation of the reference logits
  double correlation = 0;     // median over images, over the seven logits
  // The fraction of equal labels, on images whose best reference logit leads by more than `spread`.
  double sure_agreement = 1;
};

// Compares logits. Error(numerics): a limit of `precision` is exceeded; `engine` is its name there.
[[nodiscard]] SelfTest judge_self_test(const std::vector<Logits>& logits,
                                       const std::vector<Logits>& reference,
                                       const std::string& precision, const std::string& engine);

}  // namespace fer_edge
