// Latency percentiles by the rules of fer_edge/measure/latency.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace fer_edge {

// How many samples a percentile needs: the binomial chance that fewer than two of them lie beyond
// the true one is at most 1 %. p90 64, p95 130, p99 662.
[[nodiscard]] std::size_t min_samples(double percent);

// The percentile of `ns` in ms, a latency that was observed (the inverted empirical distribution).
// Nothing where there are too few samples; the median needs one.
[[nodiscard]] std::optional<double> percentile_ms(std::vector<std::int64_t> ns, double percent);

}  // namespace fer_edge
