// SHA-256 (FIPS 180-4). Own code, so that a device can build the runner without OpenSSL headers.
#pragma once

#include <string>
#include <string_view>

namespace fer_edge {

// Returns the digest of `content` as 64 lower-case hex digits.
[[nodiscard]] std::string sha256(std::string_view content);

}  // namespace fer_edge
