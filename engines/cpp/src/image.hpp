// 48x48 gray images: PGM (P5) and raw files, alone or in folders.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace fer_edge {

inline constexpr std::size_t kSize = 48;
inline constexpr std::size_t kPixels = kSize * kSize;

// One image, row by row.
using Image = std::array<std::uint8_t, kPixels>;

struct NamedImage {
  std::string file;
  Image pixels;
};

// Parses a binary PGM (P5, maxval 255, exactly 48x48, one image); errors begin with `where`.
[[nodiscard]] Image image_from_pgm(std::string_view content, const std::string& where);

// Uses 2,304 bytes as pixels; errors begin with `where`.
[[nodiscard]] Image image_from_raw(std::string_view content, const std::string& where);

// Reads .pgm and .raw files. From a folder, it reads all such files in the order of their names,
// but not those in subfolders. Error(usage): names the first file that is not such an image.
[[nodiscard]] std::vector<NamedImage> read_images(const std::vector<std::string>& paths);

}  // namespace fer_edge
