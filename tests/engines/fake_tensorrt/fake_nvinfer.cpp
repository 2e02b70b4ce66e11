// The "network" of the replacement: a plan is the text "FAKEPLAN u8" or "FAKEPLAN f32". Logit k is
// the sum of the rows 6k .. 6k+5 of the input, divided by 1000 for u8.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>

#include "NvInferRuntime.h"

// In fake_cudart.cpp: runs the work, or records it while the stream is being captured.
void fake_submit(cudaStream_t stream, std::function<void()> work);

namespace nvinfer1 {
namespace {

bool told_to(char const* what) {
  char const* value = std::getenv("FAKE_TENSORRT");
  return value != nullptr && std::string(value) == what;
}

template <typename T>
void run(void const* input, void* output, double scale) {
  auto const* pixels = static_cast<T const*>(input);
  auto* logits = static_cast<float*>(output);
  for (int k = 0; k < 7; ++k) {
    double sum = 0;
    for (int i = k * 6 * 48; i < (k + 1) * 6 * 48; ++i) sum += static_cast<double>(pixels[i]);
    logits[k] = static_cast<float>(sum * scale);
  }
}

}  // namespace

bool IExecutionContext::setInputShape(char const* tensorName, Dims const& dims) noexcept {
  return std::string(tensorName) == "images" && dims.nbDims == 4 && dims.d[0] == 1 &&
         dims.d[1] == 1 && dims.d[2] == 48 && dims.d[3] == 48;
}

bool IExecutionContext::setTensorAddress(char const* tensorName, void* data) noexcept {
  if (std::string(tensorName) == "images") {
    fakeInput = data;
  } else if (std::string(tensorName) == "logits") {
    fakeOutput = data;
  } else {
    return false;
  }
  return true;
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
  if (told_to("fail")) return false;
  fake_submit(stream, [input = fakeInput, output = fakeOutput, floats = fakeFloats] {
    if (floats) {
      run<float>(input, output, 1.0);
    } else {
      run<unsigned char>(input, output, 0.001);
    }
  });
  return true;
}

int32_t ICudaEngine::getNbIOTensors() const noexcept { return 2; }

char const* ICudaEngine::getIOTensorName(int32_t index) const noexcept {
  return index == 0 ? "images" : "logits";
}

TensorIOMode ICudaEngine::getTensorIOMode(char const* tensorName) const noexcept {
  return std::string(tensorName) == "images" ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}

DataType ICudaEngine::getTensorDataType(char const* tensorName) const noexcept {
  return std::string(tensorName) == "images" && !fakeFloats ? DataType::kUINT8 : DataType::kFLOAT;
}

Dims ICudaEngine::getTensorShape(char const* tensorName) const noexcept {
  Dims dims{};
  dims.d[0] = -1;
  if (std::string(tensorName) == "images") {
    dims.nbDims = 4;
    dims.d[1] = 1;
    dims.d[2] = dims.d[3] = told_to("other shape") ? 64 : 48;
  } else {
    dims.nbDims = 2;
    dims.d[1] = 7;
  }
  return dims;
}

IExecutionContext* ICudaEngine::createExecutionContext(
    ExecutionContextAllocationStrategy) noexcept {
  auto* context = new IExecutionContext;
  context->fakeFloats = fakeFloats;
  return context;
}

void IRuntime::setDLACore(int32_t dlaCore) noexcept { fakeCore = dlaCore; }
int32_t IRuntime::getDLACore() const noexcept { return fakeCore; }

// FAKE_DLA: the number of cores, 2 if it is not set.
int32_t IRuntime::getNbDLACores() const noexcept {
  char const* text = std::getenv("FAKE_DLA");
  return text != nullptr ? std::atoi(text) : 2;
}

ICudaEngine* IRuntime::deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
  char const* calls = std::getenv("FAKE_CALLS");
  if (calls != nullptr && fakeCore >= 0) {
    std::ofstream(calls, std::ios::app) << "loaded on core " << fakeCore << '\n';
  }
  std::string const plan(static_cast<char const*>(blob), size);
  if (plan.rfind("FAKEPLAN ", 0) != 0) {
    fakeLogger->log(ILogger::Severity::kVERBOSE, "verbose lines are not kept");
    fakeLogger->log(ILogger::Severity::kERROR, "magicTag does not match\nmore");
    return nullptr;
  }
  auto* engine = new ICudaEngine;
  engine->fakeFloats = plan == "FAKEPLAN f32";
  return engine;
}

IRuntime* createInferRuntime(ILogger& logger) noexcept {
  auto* runtime = new IRuntime;
  runtime->fakeLogger = &logger;
  return runtime;
}

}  // namespace nvinfer1

namespace {

// FAKE_VERSION is the version of the "library"; the header is always of 10.3.0.
int version_part(int index) {
  char const* text = std::getenv("FAKE_VERSION");
  std::string rest = text != nullptr ? text : "10.3.0.26";
  for (; index > 0; --index) rest = rest.substr(rest.find('.') + 1);
  return std::atoi(rest.c_str());
}

}  // namespace

extern "C" {
int32_t getInferLibMajorVersion() noexcept { return version_part(0); }
int32_t getInferLibMinorVersion() noexcept { return version_part(1); }
int32_t getInferLibPatchVersion() noexcept { return version_part(2); }
int32_t getInferLibBuildVersion() noexcept { return version_part(3); }
}
