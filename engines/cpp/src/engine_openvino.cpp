#include "engine_openvino.hpp"

#include <algorithm>
#include <cctype>
#include <openvino/openvino.hpp>
#include <sstream>

#include "errors.hpp"

namespace fer_edge {
namespace {

// The line of OpenVINO's message that is not about its own source files.
std::string reason(const ov::Exception& error) {
  std::istringstream lines(error.what());
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.rfind("Exception from", 0) != 0 && line.rfind("Check '", 0) != 0) {
      return line;
    }
  }
  return first_line(error.what());
}

// The types that OpenVINO uses for convolutions and matrix products, e.g. "int8+f32".
std::string computes_in(const ov::CompiledModel& compiled) {
  std::vector<std::string> types;
  for (const auto& node : compiled.get_runtime_model()->get_ordered_ops()) {
    const auto& info = node->get_rt_info();
    const auto layer = info.find("layerType");
    const auto precision = info.find("runtimePrecision");
    if (layer == info.end() || precision == info.end()) continue;
    const std::string name = layer->second.as<std::string>();
    if (name != "Convolution" && name != "FullyConnected" && name != "MatMul") continue;
    std::string type = precision->second.as<std::string>();
    std::transform(type.begin(), type.end(), type.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    if (type == "u8" || type == "i8") type = "int8";
    if (std::find(types.begin(), types.end(), type) == types.end()) types.push_back(type);
  }
  if (types.empty()) return "f32";
  std::string all = types.front();
  for (std::size_t i = 1; i < types.size(); ++i) all += "+" + types[i];
  return all;
}

class OpenVinoEngine final : public Engine {
 public:
  OpenVinoEngine(const Bundle& bundle, const Artifact& artifact, const EngineOptions& options)
      : file_(artifact.path),
        classes_(bundle.labels().size()),
        preprocessing_(bundle.preprocessing()) {
    const std::string graph = bundle.read(artifact);
    try {
      // From the checked bytes, not from the file, which could have changed in the meantime.
      auto model = core_.read_model(graph, ov::Tensor());
      check(*model, (bundle.path() / file_).string(), classes_);
      // With a fixed batch size, OpenVINO allocates its memory once.
      model->reshape(ov::PartialShape{1, 1, kSize, kSize});
      compiled_ = core_.compile_model(
          model, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
          // Explicit: on a CPU with AMX the default would run an FP32 graph in bfloat16.
          ov::hint::inference_precision(ov::element::f32),
          ov::inference_num_threads(options.threads));
      request_ = compiled_.create_infer_request();
    } catch (const ov::Exception& error) {
      throw Error(Exit::environment,
                  "OpenVINO cannot run " + (bundle.path() / file_).string() + ": " +
                      reason(error));
    }
    input_ = request_.get_input_tensor();
    output_ = request_.get_output_tensor();
    floats_ = input_.get_element_type() == ov::element::f32;
  }

  void infer(const Image& pixels, Logits& logits) override {
    if (floats_) {
      preprocessing_.normalise(pixels, input_.data<float>());
    } else {
      std::copy(pixels.begin(), pixels.end(), input_.data<std::uint8_t>());
    }
    try {
      request_.infer();
    } catch (const ov::Exception& error) {
      throw Error(Exit::numerics, "OpenVINO failed: " + reason(error));
    }
    logits.resize(classes_);
    std::copy_n(output_.data<const float>(), logits.size(), logits.begin());
  }

  [[nodiscard]] std::string provider() const override {
    return "CPU " + computes_in(compiled_);
  }

  [[nodiscard]] std::string model() const override { return file_; }

 private:
  static void check(const ov::Model& model, const std::string& where, std::size_t classes) {
    const auto refuse = [&](const std::string& why) {
      return Error(Exit::usage, where + " " + why + ": it was not exported by fer-edge");
    };
    if (model.inputs().size() != 1 || model.outputs().size() != 1) {
      throw refuse("does not have exactly one input and one output");
    }
    const auto type = model.input().get_element_type();
    if (type != ov::element::u8 && type != ov::element::f32) {
      throw refuse("has an input of type " + type.get_type_name() + ", not uint8 or float");
    }
    const ov::PartialShape takes{-1, 1, static_cast<std::int64_t>(kSize),
                                 static_cast<std::int64_t>(kSize)};
    const ov::PartialShape gives{-1, static_cast<std::int64_t>(classes)};
    if (!model.input().get_partial_shape().compatible(takes) ||
        !model.output().get_partial_shape().compatible(gives) ||
        model.output().get_element_type() != ov::element::f32) {
      throw refuse("does not have input [N,1,48,48] and output float [N," +
                   std::to_string(classes) + "]");
    }
  }

  std::string file_;
  std::size_t classes_;
  Preprocessing preprocessing_;
  ov::Core core_;
  ov::CompiledModel compiled_;
  ov::InferRequest request_;
  ov::Tensor input_;
  ov::Tensor output_;
  bool floats_ = false;
};

}  // namespace

const char* openvino_version() { return ov::get_openvino_version().buildNumber; }

std::unique_ptr<Engine> openvino_load(const Bundle& bundle, const Artifact& graph,
                                      const EngineOptions& options) {
  return std::make_unique<OpenVinoEngine>(bundle, graph, options);
}

}  // namespace fer_edge
