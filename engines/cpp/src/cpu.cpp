#include "cpu.hpp"

#include <fstream>
#include <sstream>

namespace fer_edge {

std::string fitting_weights(const std::string& cpuinfo) {
  std::ifstream file(cpuinfo);
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string word;
    words >> word;
    // "flags : fpu vme ..." on x86, "Features : fp asimd ..." on ARM.
    if (word != "flags" && word != "Features" && word != "flags:" && word != "Features:") continue;
    while (words >> word) {
      for (const char* exact : {"avx_vnni", "avx512_vnni", "amx_int8", "asimd"}) {
        if (word == exact) return "full";
      }
    }
    break;
  }
  return "saturation-safe";
}

}  // namespace fer_edge
