#include "self_test.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <sstream>

#include "errors.hpp"

namespace fer_edge {
namespace {

constexpr double kFp32MaxAbs = 5e-4;
constexpr double kFp16TypicalAbs = 1e-2;
// Limit of the typical |delta logit| of INT8, as a fraction of the reference logits' spread.
constexpr double kInt8TypicalShare = 0.25;
constexpr double kCorrelation = 0.95;
constexpr double kAgreement = 0.8;
constexpr char kBuildAgain[] = "build the engine again on this machine: fer-edge build";

double mean_of(const Logits& row) {
  return std::accumulate(row.begin(), row.end(), 0.0) / static_cast<double>(row.size());
}

// The population standard deviation of all logits.
double spread_of(const std::vector<Logits>& rows) {
  const double count = static_cast<double>(rows.size());
  double mean = 0;
  for (const Logits& row : rows) mean += mean_of(row) / count;
  double variance = 0;
  for (const Logits& row : rows) {
    for (const float value : row) {
      variance += (value - mean) * (value - mean) / (count * static_cast<double>(row.size()));
    }
  }
  return std::sqrt(variance);
}

// As in numpy: for an even number of values, the mean of the two middle ones.
double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// The correlation of two rows; 0 if one of them is constant.
double correlation_of(const Logits& a, const Logits& b) {
  const double mean_a = mean_of(a);
  const double mean_b = mean_of(b);
  double product = 0;
  double square_a = 0;
  double square_b = 0;
  for (std::size_t k = 0; k < a.size(); ++k) {
    product += (a[k] - mean_a) * (b[k] - mean_b);
    square_a += (a[k] - mean_a) * (a[k] - mean_a);
    square_b += (b[k] - mean_b) * (b[k] - mean_b);
  }
  const double norm = std::sqrt(square_a) * std::sqrt(square_b);
  return norm > 0 ? product / norm : 0;
}

std::size_t best(const Logits& row) {
  return static_cast<std::size_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

// The difference between the best and the second logit of a row.
double lead(Logits row) {
  std::partial_sort(row.begin(), row.begin() + 2, row.end(), std::greater<>());
  return double{row[0] - row[1]};
}

SelfTest compare(const std::vector<Logits>& logits, const std::vector<Logits>& reference) {
  SelfTest result;
  result.count = reference.size();
  result.spread = spread_of(reference);
  std::vector<double> means;
  std::vector<double> correlations;
  std::size_t sure = 0;
  std::size_t same = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    double sum = 0;
    for (std::size_t k = 0; k < reference[i].size(); ++k) {
      const double delta = std::fabs(double{logits[i][k]} - double{reference[i][k]});
      result.max_abs = std::max(result.max_abs, delta);
      sum += delta;
    }
    means.push_back(sum / static_cast<double>(reference[i].size()));
    correlations.push_back(correlation_of(logits[i], reference[i]));
    if (lead(reference[i]) > result.spread) {
      ++sure;
      if (best(logits[i]) == best(reference[i])) ++same;
    }
  }
  result.typical_abs = median_of(means);
  result.correlation = median_of(correlations);
  if (sure > 0) result.sure_agreement = static_cast<double>(same) / static_cast<double>(sure);
  return result;
}

// Collects a text such as "correlation 0.9 < 0.95" for every limit that is not met.
class Problems {
 public:
  void at_most(const char* what, double value, double limit) {
    if (value > limit) add(what, value, " > ", limit);
  }
  void at_least(const char* what, double value, double limit) {
    if (value < limit) add(what, value, " < ", limit);
  }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  void add(const char* what, double value, const char* sign, double limit) {
    std::ostringstream line;
    line.precision(3);
    line << (text_.empty() ? "" : "; ") << what << ' ' << value << sign << limit;
    text_ += line.str();
  }

  std::string text_;
};

bool all_finite(const std::vector<Logits>& rows) {
  return std::all_of(rows.begin(), rows.end(), [](const Logits& row) {
    return std::all_of(row.begin(), row.end(), [](float x) { return std::isfinite(x); });
  });
}

double largest_of(const std::vector<Logits>& rows) {
  double largest = 0;
  for (const Logits& row : rows) {
    for (const float value : row) largest = std::max(largest, std::fabs(double{value}));
  }
  return largest;
}

}  // namespace

SelfTest judge_self_test(const std::vector<Logits>& logits, const std::vector<Logits>& reference,
                         const std::string& precision, const std::string& engine) {
  if (!all_finite(logits)) {
    throw Error(Exit::numerics, engine + " computed logits that are not finite", kBuildAgain);
  }
  const SelfTest result = compare(logits, reference);
  // The limits are for logits of up to 10; rounding errors grow with the logits.
  const double scale = std::max(1.0, largest_of(reference) / 10);
  Problems problems;
  if (precision == "fp32") {
    problems.at_most("max |delta logit|", result.max_abs, kFp32MaxAbs * scale);
  } else {
    const double limit =
        precision == "fp16" ? kFp16TypicalAbs * scale : kInt8TypicalShare * result.spread;
    problems.at_most("typical |delta logit|", result.typical_abs, limit);
    problems.at_least("correlation", result.correlation, kCorrelation);
    problems.at_least("label agreement", result.sure_agreement, kAgreement);
  }
  if (!problems.text().empty()) {
    throw Error(Exit::numerics,
                engine + " fails the self-test on " + std::to_string(result.count) +
                    " golden images: " + problems.text(),
                kBuildAgain);
  }
  return result;
}

}  // namespace fer_edge
