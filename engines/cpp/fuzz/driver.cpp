// Calls a fuzz target where the compiler has no libFuzzer. It has libFuzzer's command line:
//
//   fer-edge-fuzz-golden -runs=N -max_total_time=S -seed=N SEED...
//
// A SEED is a file or a folder of files. Each input is a seed, or an earlier input that reached new
// code, with a few mutations. gcc's trace-pc tells which code ran. The input at hand is in
// crash-input if a sanitizer ends the program. The last line is the number of inputs.
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kPlaces = 1 << 16;
std::uint8_t reached[kPlaces];   // by the current input
std::uint8_t known[kPlaces];     // by all inputs before
std::string current;

}  // namespace

// gcc calls this in every basic block of instrumented code, this file's too.
extern "C" __attribute__((no_sanitize_coverage)) void __sanitizer_cov_trace_pc() {
  const auto at = reinterpret_cast<std::uintptr_t>(__builtin_return_address(0));
  reached[(at ^ (at >> 16)) % kPlaces] = 1;
}

// The sanitizers call this before they end the program.
extern "C" void __asan_set_death_callback(void (*callback)());

namespace {

void keep_input() {
  std::ofstream("crash-input", std::ios::binary) << current;
  std::cerr << "the input is in crash-input\n";
}

bool is_new() {
  bool found = false;
  for (std::size_t i = 0; i < kPlaces; ++i) {
    found = found || (reached[i] != 0 && known[i] == 0);
    known[i] = static_cast<std::uint8_t>(known[i] | reached[i]);
  }
  return found;
}

class Mutator {
 public:
  explicit Mutator(std::uint64_t seed) : random_(seed) {}

  std::size_t below(std::size_t limit) { return limit == 0 ? 0 : random_() % limit; }

  std::string changed(std::string text, const std::vector<std::string>& corpus) {
    for (std::size_t count = 1 + below(4); count > 0; --count) change(text, corpus);
    return text;
  }

 private:
  void change(std::string& text, const std::vector<std::string>& corpus) {
    static const char* const kWords[] = {
        "null", "true", "[]",  "{}",   "\"\"", "-1", "1e999", "18446744073709551616", "\x1b[2J",
        "[[[[", "0.5",  "\xff", "..", "/", "'",  "(", "\xc2\x9b", "99999999999999999999999999"};
    const std::size_t at = below(text.size() + 1);
    const std::size_t size = below(text.size() - at < 64 ? text.size() - at + 1 : 64);
    switch (below(9)) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(8)));
        break;
      case 1:
        if (at < text.size()) text[at] = static_cast<char>(below(256));
        break;
      case 2:
        text.erase(at, size);
        break;
      case 3:
        text.insert(at, std::string(size, static_cast<char>(below(256))));
        break;
      case 4:
        text.insert(at, text.substr(below(text.size() + 1), size));
        break;
      case 5:
        text.insert(at, kWords[below(std::size(kWords))]);
        break;
      case 6:
        text.replace(at, size, kWords[below(std::size(kWords))]);
        break;
      case 7:
        text.resize(at);
        break;
      default: {
        const std::string& other = corpus[below(corpus.size())];
        text = text.substr(0, at) + other.substr(below(other.size() + 1));
      }
    }
    if (text.size() > (1 << 20)) text.resize(1 << 20);
  }

  std::mt19937_64 random_;
};

std::string bytes_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

bool run(const std::string& input) {
  std::memset(reached, 0, sizeof reached);
  current = input;
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
  return is_new();
}

long long number(const std::string& word, const char* option, long long otherwise) {
  const std::string start = std::string(option) + "=";
  return word.compare(0, start.size(), start) == 0 ? std::atoll(word.c_str() + start.size())
                                                   : otherwise;
}

}  // namespace

int main(int argc, char** argv) {
  long long runs = -1;
  long long seconds = 10;
  long long seed = 1;
  std::vector<std::string> corpus = {""};
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    runs = number(word, "-runs", runs);
    seconds = number(word, "-max_total_time", seconds);
    seed = number(word, "-seed", seed);
    if (word[0] == '-') continue;
    if (std::filesystem::is_directory(word)) {
      for (const auto& file : std::filesystem::directory_iterator(word)) {
        corpus.push_back(bytes_of(file.path()));
      }
    } else {
      corpus.push_back(bytes_of(word));
    }
  }
  __asan_set_death_callback(keep_input);
  const std::size_t seeds = corpus.size();
  for (std::size_t i = 0; i < seeds; ++i) run(corpus[i]);
  Mutator mutator(static_cast<std::uint64_t>(seed));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
  long long done = static_cast<long long>(seeds);
  while ((runs < 0 || done < runs) && std::chrono::steady_clock::now() < end) {
    std::string input = mutator.changed(corpus[mutator.below(corpus.size())], corpus);
    if (run(input) && corpus.size() < 4096) corpus.push_back(std::move(input));
    ++done;
  }
  std::cout << done << " inputs, " << corpus.size() - seeds << " of them reached new code\n";
  return 0;
}
