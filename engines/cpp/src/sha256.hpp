// SHA-256 (FIPS 180-4). Our own, so that a device needs no OpenSSL headers to build the runner.
#pragma once

#include <string>
#include <string_view>

namespace fer_edge {

// Returns the digest of `content` as 64 lower-case hex digits.
[[nodiscard]] std::string sha256(std::string_view content);

}  // namespace fer_edge
