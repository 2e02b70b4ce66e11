// The JSON beside a plan.
#include "plan.hpp"
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz(data, size, [](const std::string& content) {
    try {
      (void)fer_edge::sidecar_fit(content, std::string(64, '0'), {"10.3.0", 87, 8, 7620});
    } catch (const fer_edge::BadSidecar&) {
    }
  });
}
