// From pixels to the input of the network, and from logits to probabilities. The input is bit for
// bit that of fer_edge/preprocessing.py (float32); probabilities are equal within rounding.
#pragma once

#include <array>

#include "image.hpp"

namespace fer_edge {

inline constexpr std::size_t kClasses = 7;
using Logits = std::array<float, kClasses>;

// x = (pixel / 255 - mean) / std, mean and std on a 0..1 scale.
struct Preprocessing {
  double mean = 0;
  double std = 1;

  void normalise(const Image& pixels, float* out) const;
};

[[nodiscard]] Logits softmax(const Logits& logits);

}  // namespace fer_edge
