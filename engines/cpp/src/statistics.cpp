#include "statistics.hpp"

#include <algorithm>
#include <cmath>

namespace fer_edge {

std::size_t min_samples(double percent) {
  const double inside = percent / 100;
  std::size_t n = 2;
  const auto few = [&](double count) {
    return std::pow(inside, count) + count * (1 - inside) * std::pow(inside, count - 1);
  };
  while (few(static_cast<double>(n)) > 0.01) ++n;
  return n;
}

std::optional<double> percentile_ms(std::vector<std::int64_t> ns, double percent) {
  if (ns.empty() || (percent != 50 && ns.size() < min_samples(percent))) return std::nullopt;
  const double exact = std::ceil(static_cast<double>(ns.size()) * percent / 100);
  const std::size_t rank = static_cast<std::size_t>(std::max(exact, 1.0)) - 1;
  std::nth_element(ns.begin(), ns.begin() + static_cast<std::ptrdiff_t>(rank), ns.end());
  return static_cast<double>(ns[rank]) / 1e6;
}

}  // namespace fer_edge
