// Images: .pgm and .raw files.
#include "image.hpp"
#include "target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz(data, size, [](const std::string& content) {
    (void)fer_edge::image_from_pgm(content, "x.pgm");
  });
  return fuzz(data, size, [](const std::string& content) {
    (void)fer_edge::image_from_raw(content, "x.raw");
  });
}
