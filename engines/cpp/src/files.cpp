#include "files.hpp"

#include <fstream>
#include <system_error>

#include "errors.hpp"

namespace fer_edge {

std::string read_file(const std::filesystem::path& path, std::uint64_t limit, int exit_code) {
  const auto refuse = [&](const std::string& why) {
    return Error(static_cast<Exit>(exit_code), path.string() + ": " + why);
  };
  std::error_code failed;
  const auto status = std::filesystem::status(path, failed);
  if (status.type() == std::filesystem::file_type::not_found) throw refuse("no such file");
  // A pipe or a device would block or never end.
  if (failed || !std::filesystem::is_regular_file(status)) throw refuse("not a regular file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw refuse("it cannot be read");
  std::string content;
  char block[1 << 16];
  while (file.read(block, sizeof block) || file.gcount() > 0) {
    content.append(block, static_cast<std::size_t>(file.gcount()));
    if (content.size() > limit) {
      throw refuse("it has more than " + std::to_string(limit) + " bytes");
    }
  }
  if (file.bad()) throw refuse("it cannot be read");
  return content;
}

}  // namespace fer_edge
