// fer-edge-probe: runs single parts of the runner for the tests, one per command. Not installed.
#include <cstdint>
#include <cstring>
#include <iostream>

#include "cpu.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "image.hpp"
#include "npz.hpp"
#include "self_test.hpp"
#include "sha256.hpp"
#include "statistics.hpp"

namespace fer_edge {
namespace {

constexpr std::uint64_t kAnySize = std::uint64_t{1} << 32;

std::string text_of(const Image& image) {
  return sha256(std::string_view(reinterpret_cast<const char*>(image.data()), image.size()));
}

void print_npz(const std::string& content, const std::string& where) {
  for (const auto& [name, array] : read_npz(content, where)) {
    std::cout << name << ' ' << array.dtype;
    for (const std::size_t extent : array.shape) std::cout << ' ' << extent;
    std::cout << ' ' << sha256(array.bytes) << '\n';
  }
}

// "percentile Q" reads nanoseconds from standard input.
void print_percentile(double percent) {
  std::vector<std::int64_t> ns;
  for (std::int64_t value = 0; std::cin >> value;) ns.push_back(value);
  const auto value = percentile_ms(ns, percent);
  std::cout.precision(17);
  if (value) {
    std::cout << *value << '\n';
  } else {
    std::cout << "n/a\n";
  }
}

// "normalise MEAN STD FILE" writes the float32 values of a raw image.
void print_normalised(const Preprocessing& preprocessing, const Image& image) {
  std::array<float, kPixels> out{};
  preprocessing.normalise(image, out.data());
  std::cout.write(reinterpret_cast<const char*>(out.data()), sizeof out);
}

// "judge PRECISION FILE": an .npz with `logits` and `reference`, both f32[G,C].
void print_self_test(const std::string& precision, const std::string& content,
                     const std::string& where) {
  const auto arrays = read_npz(content, where);
  const auto rows = [&](const char* name) {
    const Array& array = arrays.at(name);
    return logits_of(array.bytes, array.shape.at(1));
  };
  const SelfTest test = judge_self_test(rows("logits"), rows("reference"), precision, "engine");
  std::cout.precision(17);
  std::cout << test.max_abs << ' ' << test.typical_abs << ' ' << test.spread << ' '
            << test.correlation << ' ' << test.sure_agreement << '\n';
}

int run(const std::vector<std::string>& words) {
  const std::string& what = words.at(1);
  const std::string& last = words.back();
  const auto content = [&] { return read_file(last, kAnySize, static_cast<int>(Exit::usage)); };
  if (what == "sha256") {
    std::cout << sha256(content()) << '\n';
  } else if (what == "weights") {
    std::cout << fitting_weights(last) << '\n';
  } else if (what == "pgm") {
    std::cout << text_of(image_from_pgm(content(), last)) << '\n';
  } else if (what == "npz") {
    print_npz(content(), last);
  } else if (what == "judge") {
    print_self_test(words.at(2), content(), last);
  } else if (what == "min-samples") {
    std::cout << min_samples(std::stod(last)) << '\n';
  } else if (what == "percentile") {
    print_percentile(std::stod(last));
  } else if (what == "normalise") {
    print_normalised({std::stod(words.at(2)), std::stod(words.at(3))},
                     image_from_raw(content(), last));
  } else {
    throw Error(Exit::usage, "unknown command");
  }
  return 0;
}

}  // namespace
}  // namespace fer_edge

int main(int argc, char** argv) {
  try {
    return fer_edge::run({argv, argv + argc});
  } catch (const fer_edge::Error& error) {
    std::cerr << "error: " << error.what() << '\n';
    return error.exit_code();
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 1;
  }
}
