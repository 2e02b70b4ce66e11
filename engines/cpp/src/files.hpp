// Reading whole files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace fer_edge {

// Returns a file's bytes. Error(code): missing, not a regular file, unreadable, or over `limit`.
[[nodiscard]] std::string read_file(const std::filesystem::path& path, std::uint64_t limit,
                                    int exit_code);

}  // namespace fer_edge
