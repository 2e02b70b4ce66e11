// The errors that a user can cause, with the exit codes of fer_edge/errors.py.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>

namespace fer_edge {

// The character of UTF-8 at `at` if it can control a terminal, and its length in bytes; else 0. C0
// and C1 controls, DEL, marks that reorder or hide text, line separators.
[[nodiscard]] inline std::pair<unsigned, std::size_t> control_at(const std::string& text,
                                                                 std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(at);
  const unsigned second = byte(at + 1);
  const unsigned third = byte(at + 2);
  if (first < 0x20 || first == 0x7f) return {first, 1};
  if (first == 0xc2 && second >= 0x80 && second < 0xa0) return {second, 2};
  if (first == 0xe2 && (second == 0x80 || second == 0x81)) {
    const unsigned code = 0x2000 + (second - 0x80) * 64 + (third & 0x3f);
    const bool marks = code == 0x200e || code == 0x200f || (code >= 0x2028 && code <= 0x202e) ||
                       (code >= 0x2060 && code <= 0x206f);
    if (marks) return {code, 3};
  }
  return {0, 0};
}

// A text as one line without such characters, for messages: it may quote files and names.
[[nodiscard]] inline std::string printable(const std::string& text) {
  std::string shown;
  for (std::size_t i = 0; i < text.size();) {
    const auto [code, length] = control_at(text, i);
    if (length == 0) {
      shown += text[i++];
    } else {
      shown += code == '\n' || code == '\t' ? ' ' : '?';
      i += length;
    }
  }
  return shown;
}

// The text of a JSON line with such characters escaped: it keeps its meaning.
[[nodiscard]] inline std::string printable_json(const std::string& text) {
  std::string shown;
  for (std::size_t i = 0; i < text.size();) {
    const auto [code, length] = control_at(text, i);
    if (length == 0) {
      shown += text[i++];
    } else {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", code & 0xffffU);
      shown += escape;
      i += length;
    }
  }
  return shown;
}

enum class Exit : int { usage = 2, numerics = 4, environment = 5, integrity = 6 };

class Error : public std::runtime_error {
 public:
  Error(Exit code, const std::string& message, const std::string& fix = "")
      : std::runtime_error(printable(message)), code_(code), fix_(printable(fix)) {}

  [[nodiscard]] int exit_code() const noexcept { return static_cast<int>(code_); }
  // What to type or to change next; may be empty.
  [[nodiscard]] const std::string& fix() const noexcept { return fix_; }

 private:
  Exit code_;
  std::string fix_;
};

}  // namespace fer_edge
