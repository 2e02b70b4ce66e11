#include "image.hpp"

#include <algorithm>
#include <cctype>
#include <system_error>

#include "errors.hpp"
#include "files.hpp"

namespace fer_edge {
namespace {

constexpr char kConvert[] =
    "crop the face and scale it to 48x48 gray first; fer-edge predict accepts photos of any size";

// Larger than any valid file, so that a photo of another size gets the message about its size.
constexpr std::uint64_t kLargestFile = 64 << 20;

Error bad(const std::string& where, const std::string& why, const std::string& fix = "") {
  return Error(Exit::usage, where + ": " + why, fix);
}

// Reads the numbers of a PGM header, which are separated by white space and comments.
class Header {
 public:
  Header(std::string_view content, const std::string& where) : content_(content), where_(where) {}

  unsigned number(const char* what) {
    skip_space();
    unsigned value = 0;
    std::size_t digits = 0;
    while (at_ < content_.size() && is_digit(content_[at_])) {
      value = value * 10 + static_cast<unsigned>(content_[at_] - '0');
      ++at_;
      if (++digits > 6) throw bad(where_, std::string("its PGM header has an invalid ") + what);
    }
    if (digits == 0) throw bad(where_, std::string("its PGM header has no ") + what);
    return value;
  }

  // The single white-space byte between header and pixels.
  std::size_t end() {
    if (at_ >= content_.size() || !is_space(content_[at_])) {
      throw bad(where_, "its PGM header does not end in white space");
    }
    return at_ + 1;
  }

 private:
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

  void skip_space() {
    const std::size_t start = at_;
    while (at_ < content_.size()) {
      if (is_space(content_[at_])) {
        ++at_;
      } else if (content_[at_] == '#') {
        while (at_ < content_.size() && content_[at_] != '\n' && content_[at_] != '\r') ++at_;
      } else {
        break;
      }
    }
    if (at_ == start) throw bad(where_, "its PGM header is damaged");
  }

  std::string_view content_;
  const std::string& where_;
  std::size_t at_ = 2;  // after "P5"
};

std::string lower_extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return extension;
}

bool is_image_name(const std::filesystem::path& path) {
  const std::string extension = lower_extension(path);
  return extension == ".pgm" || extension == ".raw";
}

NamedImage read_image(const std::filesystem::path& path) {
  const std::string where = path.string();
  if (!is_image_name(path)) {
    throw bad(where, "not a .pgm or .raw file",
              "give a 48x48 gray PGM (P5) or 2,304 raw bytes, or a folder of such files");
  }
  const std::string content = read_file(path, kLargestFile, static_cast<int>(Exit::usage));
  return {where, lower_extension(path) == ".pgm" ? image_from_pgm(content, where)
                                                 : image_from_raw(content, where)};
}

std::vector<std::filesystem::path> images_in(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(folder, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    if (is_image_name(entry->path())) found.push_back(entry->path());
  }
  if (failed) throw bad(folder.string(), "this folder cannot be read: " + failed.message());
  if (found.empty()) throw bad(folder.string(), "this folder has no .pgm or .raw file");
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

Image image_from_pgm(std::string_view content, const std::string& where) {
  if (content.substr(0, 2) != "P5") {
    throw bad(where, "not a binary PGM: it does not begin with P5",
              content.substr(0, 2) == "P2" ? "this is a text PGM (P2): convert it to P5" : kConvert);
  }
  Header header(content, where);
  const unsigned width = header.number("width");
  const unsigned height = header.number("height");
  const unsigned maxval = header.number("maxval");
  if (width != kSize || height != kSize) {
    throw bad(where, "the image is " + std::to_string(width) + "x" + std::to_string(height) +
                         ", not 48x48", kConvert);
  }
  if (maxval != 255) {
    throw bad(where, "its maxval is " + std::to_string(maxval) + ", not 255", "convert it to 8 bits");
  }
  const std::string_view pixels = content.substr(header.end());
  if (pixels.size() != kPixels) {
    throw bad(where, "a 48x48 PGM has 2304 bytes of pixels, this one has " +
                         std::to_string(pixels.size()));
  }
  return image_from_raw(pixels, where);
}

Image image_from_raw(std::string_view content, const std::string& where) {
  if (content.size() != kPixels) {
    throw bad(where,
              "a raw 48x48 image has 2304 bytes, this one has " + std::to_string(content.size()),
              kConvert);
  }
  Image image{};
  std::copy(content.begin(), content.end(), image.begin());
  return image;
}

std::vector<NamedImage> read_images(const std::vector<std::string>& paths) {
  std::vector<NamedImage> images;
  for (const std::filesystem::path& path : std::vector<std::filesystem::path>(paths.begin(), paths.end())) {
    std::error_code failed;
    if (std::filesystem::is_directory(path, failed)) {
      for (const auto& file : images_in(path)) images.push_back(read_image(file));
    } else {
      images.push_back(read_image(path));
    }
  }
  return images;
}

}  // namespace fer_edge
