// The errors that a user can cause, with the exit codes of fer_edge/errors.py.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace fer_edge {

enum class Exit : int { usage = 2, numerics = 4, environment = 5, integrity = 6 };

class Error : public std::runtime_error {
 public:
  Error(Exit code, const std::string& message, std::string fix = "")
      : std::runtime_error(message), code_(code), fix_(std::move(fix)) {}

  [[nodiscard]] int exit_code() const noexcept { return static_cast<int>(code_); }
  // What to type or to change next; may be empty.
  [[nodiscard]] const std::string& fix() const noexcept { return fix_; }

 private:
  Exit code_;
  std::string fix_;
};

}  // namespace fer_edge
