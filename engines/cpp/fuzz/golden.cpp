// golden.npz: zip, deflate and numpy's headers.
#include "bundle.hpp"
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return fuzz(data, size, [](const std::string& content) {
    (void)fer_edge::golden_from_npz(content, 7, "golden.npz");
  });
}
