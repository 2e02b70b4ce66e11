// The golden self-test: about 32 synthetic images whose logits the FP32 reference has computed.
// Measures and limits are those of fer_edge/backends/selftest.py.
#pragma once

#include <string>
#include <vector>

#include "numerics.hpp"

namespace fer_edge {

// How an engine's logits differ from the reference's on the golden images.
struct SelfTest {
  std::size_t count = 0;
  double max_abs = 0;
  double typical_abs = 0;     // median over images of their mean |delta logit|
  double spread = 0;          // standard deviation of the reference logits
  double correlation = 0;     // median over images, over the seven logits
  double sure_agreement = 1;  // of labels, where the reference is sure of its own
};

// Compares logits; Error(numerics) beyond the limits of `precision`. `engine` names it in the error.
[[nodiscard]] SelfTest judge_self_test(const std::vector<Logits>& logits,
                                       const std::vector<Logits>& reference,
                                       const std::string& precision, const std::string& engine);

}  // namespace fer_edge
