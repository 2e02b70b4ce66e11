// From pixels to the input of the network, and from logits to probabilities. The input is bit for
// bit that of fer_edge/preprocessing.py (float32); probabilities are equal within rounding.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "image.hpp"

namespace fer_edge {

// One value per class of the bundle.
using Logits = std::vector<float>;

// x = (pixel / 255 - mean) / std, mean and std on a 0..1 scale.
struct Preprocessing {
  double mean = 0;
  double std = 1;

  void normalise(const Image& pixels, float* out) const;
};

[[nodiscard]] Logits softmax(const Logits& logits);

// The rows of little-endian f32[G,classes]; bytes of an incomplete last row are left out.
[[nodiscard]] std::vector<Logits> logits_of(const std::string& bytes, std::size_t classes);

}  // namespace fer_edge
