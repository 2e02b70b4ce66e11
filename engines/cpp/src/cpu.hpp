// Which kind of INT8 weights fits this CPU: the rule of fer_edge/cpu.py.
#pragma once

#include <string>

namespace fer_edge {

// Returns "full" where 8-bit products are added in 32 bits (VNNI, AMX, ARM), else
// "saturation-safe": such weights are right on every CPU. `cpuinfo` is the list of Linux.
[[nodiscard]] std::string fitting_weights(const std::string& cpuinfo = "/proc/cpuinfo");

}  // namespace fer_edge
