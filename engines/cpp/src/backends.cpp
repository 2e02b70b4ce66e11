#include "engine.hpp"
#ifdef FER_EDGE_WITH_OPENVINO
#include "engine_openvino.hpp"
#endif
#ifdef FER_EDGE_WITH_TENSORRT
#include "engine_tensorrt.hpp"
#endif

namespace fer_edge {

const std::vector<BackendKind>& backends() {
  // In order of preference; before them the DLA, which is used only if its name is given.
  static const std::vector<BackendKind> kinds = {
#ifdef FER_EDGE_WITH_TENSORRT
      {"tensorrt-dla", tensorrt_version(), "dla", true, true, tensorrt_misfit, tensorrt_differs,
       tensorrt_load},
      {"tensorrt", tensorrt_version(), "tensorrt", true, false, tensorrt_misfit, tensorrt_differs,
       tensorrt_load},
#endif
#ifdef FER_EDGE_WITH_OPENVINO
      {"openvino", openvino_version(), "openvino", false, false, nullptr, nullptr, openvino_load},
#endif
  };
  return kinds;
}

std::string first_line(const std::string& text) {
  const std::size_t start = text.find_first_not_of(" \t\r\n");
  if (start == std::string::npos) return "no further message";
  return text.substr(start, text.find_first_of("\r\n", start) - start);
}

}  // namespace fer_edge
