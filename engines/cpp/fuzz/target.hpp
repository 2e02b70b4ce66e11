// A fuzz target is one file with LLVMFuzzerTestOneInput, as libFuzzer calls it. It gives any bytes
// to one reader of the runner; Error is the only exception that a reader may throw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "errors.hpp"

template <typename Read>
int fuzz(const std::uint8_t* data, std::size_t size, Read read) {
  const std::string content(reinterpret_cast<const char*>(data), size);
  try {
    read(content);
  } catch (const fer_edge::Error&) {
  }
  return 0;
}
