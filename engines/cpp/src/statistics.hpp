// Latency percentiles, with the rules of fer_edge/measure/latency.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace fer_edge {

// The number of samples that a percentile needs. With this number, the probability (binomial) that
// fewer than two samples are beyond the true percentile is at most 1 %. p90 64, p95 130, p99 662.
[[nodiscard]] std::size_t min_samples(double percent);

// The percentile of `ns` in ms. It is one of the samples (inverted empirical distribution).
// Empty if there are too few samples; the median needs one.
[[nodiscard]] std::optional<double> percentile_ms(std::vector<std::int64_t> ns, double percent);

}  // namespace fer_edge
