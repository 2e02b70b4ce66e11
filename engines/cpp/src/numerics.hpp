// From pixels to the network's input and from its logits to probabilities, bit for bit as
// fer_edge/preprocessing.py does the first (both in float32) and within rounding the second.
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
