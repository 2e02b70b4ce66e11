#include "files.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <system_error>
#include <sys/stat.h>
#include <unistd.h>

#include "errors.hpp"

namespace fer_edge {
namespace {

// Closes a descriptor at the end of a scope.
class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int number() const { return number_; }

 private:
  int number_;
};

}  // namespace

std::string read_file(const std::filesystem::path& path, std::uint64_t limit, int exit_code) {
  const auto refuse = [&](const std::string& why) {
    return Error(static_cast<Exit>(exit_code), path.string() + ": " + why);
  };
  std::error_code failed;
  const auto status = std::filesystem::status(path, failed);
  if (status.type() == std::filesystem::file_type::not_found) throw refuse("no such file");
  // A pipe or a device would block or never end.
  if (failed || !std::filesystem::is_regular_file(status)) throw refuse("not a regular file");
  // Another process may put a pipe there in between: it must not block, and is refused below.
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
  if (file.number() < 0) throw refuse(std::string("it cannot be read: ") + std::strerror(errno));
  struct stat opened {};
  if (::fstat(file.number(), &opened) != 0 || !S_ISREG(opened.st_mode)) {
    throw refuse("not a regular file");
  }
  const auto too_large = [&] {
    return refuse("it has more than " + std::to_string(limit) + " bytes");
  };
  if (static_cast<std::uint64_t>(opened.st_size) > limit) throw too_large();
  std::string content;
  content.reserve(static_cast<std::size_t>(opened.st_size));
  char block[1 << 16];
  for (;;) {
    const ssize_t count = ::read(file.number(), block, sizeof block);
    if (count == 0) return content;
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw refuse(std::string("it cannot be read: ") + std::strerror(errno));
    content.append(block, static_cast<std::size_t>(count));
    if (content.size() > limit) throw too_large();  // it grows
  }
}

}  // namespace fer_edge
