#include "numerics.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace fer_edge {

void Preprocessing::normalise(const Image& pixels, float* out) const {
  const auto scale = static_cast<float>(1.0 / (255.0 * std));
  const auto shift = static_cast<float>(mean / std);
  // Two roundings, as in numpy; CMakeLists.txt disables fused multiply-add.
  for (std::size_t i = 0; i < pixels.size(); ++i) {
    out[i] = static_cast<float>(pixels[i]) * scale - shift;
  }
}

Logits softmax(const Logits& logits) {
  const float largest = *std::max_element(logits.begin(), logits.end());
  Logits probabilities(logits.size());
  float sum = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    probabilities[i] = std::exp(logits[i] - largest);
    sum += probabilities[i];
  }
  for (float& probability : probabilities) probability /= sum;
  return probabilities;
}

std::vector<Logits> logits_of(const std::string& bytes, std::size_t classes) {
  const std::size_t size = classes * sizeof(float);
  std::vector<Logits> rows(bytes.size() / size, Logits(classes));
  for (std::size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(rows[i].data(), bytes.data() + i * size, size);
  }
  return rows;
}

}  // namespace fer_edge
