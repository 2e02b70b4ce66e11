// numpy's .npz, as numpy.savez and savez_compressed write it.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace fer_edge {

// One array in C order: numpy's type string ("|u1", "<f4"), its shape and its bytes.
struct Array {
  std::string dtype;
  std::vector<std::size_t> shape;
  std::string bytes;
};

// Reads every array of a .npz. Error(integrity): not a valid .npz; the error begins with `where`.
[[nodiscard]] std::map<std::string, Array> read_npz(std::string_view content,
                                                    const std::string& where);

}  // namespace fer_edge
