// TensorRT 8.6 to 11: the same code for all, since all of them have the names used here.
// engines/cpp/README.md lists what was compiled against which headers, and what was run.
#include "engine_tensorrt.hpp"

#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <sstream>

#include "errors.hpp"
#include "plan.hpp"

namespace fer_edge {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) {
    throw Error(Exit::environment,
                std::string("CUDA: ") + what + ": " + cudaGetErrorString(status),
                "fer-edge doctor");
  }
}

// Keeps the last error or warning of TensorRT, so that our error can give the reason.
class Log final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, char const* message) noexcept override {
    if (severity > Severity::kWARNING) return;
    const std::lock_guard<std::mutex> hold(lock_);
    last_ = message;
  }

  [[nodiscard]] std::string last() {
    const std::lock_guard<std::mutex> hold(lock_);
    return first_line(last_);
  }

 private:
  std::mutex lock_;
  std::string last_;
};

class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  [[nodiscard]] cudaStream_t get() const { return stream_; }
  void wait() const { check(cudaStreamSynchronize(stream_), "waiting for the GPU"); }

 private:
  cudaStream_t stream_ = nullptr;
};

// A block on the device and a page-locked block of the same size on the host. Copies can overlap
// and be part of a CUDA graph only if the host memory is page-locked. If it is mapped, there is one
// block, which the GPU reads and writes in place.
class Buffer {
 public:
  Buffer(std::size_t size, bool mapped) : size_(size), mapped_(mapped) {
    const unsigned int flags = mapped ? cudaHostAllocMapped : cudaHostAllocDefault;
    check(cudaHostAlloc(&host_, size, flags), "page-locked memory");
    const cudaError_t status = mapped ? cudaHostGetDevicePointer(&device_, host_, 0)
                                      : cudaMalloc(&device_, size);
    if (status != cudaSuccess) cudaFreeHost(host_);
    check(status, "device memory");
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (!mapped_) cudaFree(device_);
    cudaFreeHost(host_);
  }
  [[nodiscard]] void* device() const { return device_; }
  template <typename T>
  [[nodiscard]] T* host() const {
    return static_cast<T*>(host_);
  }
  void upload(cudaStream_t stream) const {
    if (mapped_) return;
    check(cudaMemcpyAsync(device_, host_, size_, cudaMemcpyHostToDevice, stream), "upload");
  }
  void download(cudaStream_t stream) const {
    if (mapped_) return;
    check(cudaMemcpyAsync(host_, device_, size_, cudaMemcpyDeviceToHost, stream), "download");
  }

 private:
  std::size_t size_;
  bool mapped_;
  void* device_ = nullptr;
  void* host_ = nullptr;
};

// Upload, network and download as one launch. A 48x48 network has about a dozen kernels of a few
// microseconds each: to launch them one by one takes longer than to run them.
class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }

  // Returns why the work cannot be captured, or "".
  template <typename Work>
  std::string capture(cudaStream_t stream, Work&& work) {
    // Thread-local: the work of other threads on the device does not end the capture.
    cudaError_t status = cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    if (status != cudaSuccess) return cudaGetErrorString(status);
    std::string problem;
    try {
      work();
    } catch (const Error& error) {
      problem = error.what();
    }
    cudaGraph_t graph = nullptr;
    // Also after a failure: otherwise the stream would stay in capture mode.
    status = cudaStreamEndCapture(stream, &graph);
    if (status == cudaSuccess && problem.empty()) {
      status = cudaGraphInstantiateWithFlags(&executable_, graph, 0);
    }
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (status != cudaSuccess) {
      if (problem.empty()) problem = cudaGetErrorString(status);
      executable_ = nullptr;
      cudaGetLastError();  // clears the error: otherwise the next call would report it
    }
    return problem;
  }

  [[nodiscard]] explicit operator bool() const { return executable_ != nullptr; }
  void launch(cudaStream_t stream) const { check(cudaGraphLaunch(executable_, stream), "graph"); }

 private:
  cudaGraphExec_t executable_ = nullptr;
};

// The version of the library that runs, not of the headers: apt may have replaced it since.
std::string runtime_version() {
  std::ostringstream text;
#if NV_TENSORRT_MAJOR >= 10
  text << getInferLibMajorVersion() << '.' << getInferLibMinorVersion() << '.'
       << getInferLibPatchVersion() << '.' << getInferLibBuildVersion();
#else
  const int version = getInferLibVersion();  // 8601 is 8.6.1
  text << version / 1000 << '.' << version % 1000 / 100 << '.' << version % 100;
#endif
  return text.str();
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, 0), "device");
  return value;
}

int compute_capability() {
  int count = 0;
  check(cudaGetDeviceCount(&count), "no GPU can be used");
  if (count == 0) throw Error(Exit::environment, "CUDA: there is no GPU", "fer-edge doctor");
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor) +
         attribute(cudaDevAttrComputeCapabilityMinor);
}

// Makes no context on the GPU, as cudaMemGetInfo would: --wait has to be set before.
Device this_device() {
  Device device{runtime_version(), compute_capability(), 0, 0};
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, 0), "device");
  device.multiprocessors = properties.multiProcessorCount;
  device.memory_mib = static_cast<int>(properties.totalGlobalMem >> 20);
  return device;
}

// Before the context of the GPU is made: it takes the flags that it finds.
void set_wait(const std::string& wait) {
  if (wait == "auto") return;
  const unsigned int flags =
      wait == "spin" ? cudaDeviceScheduleSpin : cudaDeviceScheduleBlockingSync;
  check(cudaSetDeviceFlags(flags), "how to wait");
}

class TensorRtEngine final : public Engine {
 public:
  TensorRtEngine(const Bundle& bundle, const Artifact& plan, const EngineOptions& options)
      : classes_(bundle.labels().size()),
        preprocessing_(bundle.preprocessing()),
        file_(plan.path),
        rebuild_(bundle.build_command(plan.precision, plan.target)) {
    set_wait(options.wait);
    const std::string content = bundle.read(plan);
    const Device here = this_device();
    const PlanFit fit = plan_fit(bundle, plan, here);
    mapped_ = options.memory == "mapped" || (options.memory == "auto" && fit.mapped);
    if (mapped_ && attribute(cudaDevAttrCanMapHostMemory) == 0) {
      throw Error(Exit::environment, "this GPU cannot map host memory", "--memory copied");
    }
    provider_ = "TensorRT " + here.tensorrt + ", sm_" + std::to_string(here.sm);
    if (fit.dla_core >= 0) {
      provider_ += ", DLA core " +
                   std::to_string(options.dla_core >= 0 ? options.dla_core : fit.dla_core);
    }
    if (mapped_) provider_ += ", mapped memory";
    if (options.wait != "auto") provider_ += ", wait: " + options.wait;
    if (!fit.difference.empty()) provider_ += ", " + fit.difference;

    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (!runtime_) throw unusable("TensorRT cannot be started");
    if (fit.dla_core >= 0) choose_core(options.dla_core >= 0 ? options.dla_core : fit.dla_core);
    // TensorRT returns null if the plan does not fit. The reason is only in the log.
    engine_.reset(runtime_->deserializeCudaEngine(content.data(), content.size()));
    if (!engine_) throw unusable("TensorRT cannot load " + file_);
    name_tensors();
    context_.reset(engine_->createExecutionContext());
    if (!context_) throw unusable("TensorRT cannot create an execution context");
    prepare();
    if (options.cuda_graph) capture();
  }

  void infer(const Image& pixels, Logits& logits) override {
    if (floats_) {
      preprocessing_.normalise(pixels, in_->host<float>());
    } else {
      std::copy(pixels.begin(), pixels.end(), in_->host<std::uint8_t>());
    }
    if (graph_) {
      graph_.launch(stream_.get());
    } else {
      enqueue();
    }
    stream_.wait();
    logits.resize(classes_);
    std::copy_n(out_->host<float>(), logits.size(), logits.begin());
  }

  [[nodiscard]] std::string provider() const override { return provider_; }
  [[nodiscard]] std::string model() const override { return file_; }

 private:
  Error unusable(const std::string& what) {
    return Error(Exit::environment, what + ": " + log_.last(), rebuild_);
  }

  // Before the plan is loaded: the runtime would take core 0.
  void choose_core(int core) {
    const std::int32_t cores = runtime_->getNbDLACores();
    if (core >= cores) {
      throw Error(Exit::environment,
                  file_ + " runs on a DLA, and TensorRT finds no core " + std::to_string(core) +
                      " here, but " + std::to_string(cores),
                  cores > 0 ? "--dla-core 0" : "build for the GPU: --target tensorrt");
    }
    runtime_->setDLACore(core);
  }

  void name_tensors() {
    for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
      const char* name = engine_->getIOTensorName(i);
      const bool in = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
      std::string& kept = in ? input_ : output_;
      if (!kept.empty()) throw unusable(file_ + " has more than one input or output");
      kept = name;
    }
    const auto takes = engine_->getTensorDataType(input_.c_str());
    floats_ = takes == nvinfer1::DataType::kFLOAT;
    const bool known = floats_ || takes == nvinfer1::DataType::kUINT8;
    if (!known || !fits(input_, {1, 1, kSize, kSize}) || !fits(output_, {1, classes_}) ||
        engine_->getTensorDataType(output_.c_str()) != nvinfer1::DataType::kFLOAT) {
      throw unusable(file_ + " was not exported by fer-edge");
    }
  }

  // Whether a tensor has the shape `wanted`; -1 (the batch) fits any size.
  [[nodiscard]] bool fits(const std::string& tensor, const std::vector<std::size_t>& wanted) const {
    const nvinfer1::Dims shape = engine_->getTensorShape(tensor.c_str());
    if (shape.nbDims != static_cast<std::int32_t>(wanted.size())) return false;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const auto extent = static_cast<std::int64_t>(shape.d[i]);
      if (extent != -1 && extent != static_cast<std::int64_t>(wanted[i])) return false;
    }
    return true;
  }

  void prepare() {
    in_ = std::make_unique<Buffer>(kPixels * (floats_ ? sizeof(float) : 1), mapped_);
    out_ = std::make_unique<Buffer>(classes_ * sizeof(float), mapped_);
    nvinfer1::Dims one{};
    one.nbDims = 4;
    one.d[0] = one.d[1] = 1;
    one.d[2] = one.d[3] = kSize;
    if (!context_->setInputShape(input_.c_str(), one) ||
        !context_->setTensorAddress(input_.c_str(), in_->device()) ||
        !context_->setTensorAddress(output_.c_str(), out_->device())) {
      throw unusable("TensorRT does not accept a batch of one");
    }
    // One run without a graph: kernels are loaded at their first use, which a capture forbids.
    std::memset(in_->host<char>(), 0, kPixels);
    enqueue();
    stream_.wait();
  }

  void capture() {
    const std::string problem = graph_.capture(stream_.get(), [&] { enqueue(); });
    provider_ += problem.empty() ? ", CUDA graph" : ", no CUDA graph (" + problem + ")";
  }

  void enqueue() {
    in_->upload(stream_.get());
    if (!context_->enqueueV3(stream_.get())) {
      throw Error(Exit::numerics, "TensorRT failed: " + log_.last());
    }
    out_->download(stream_.get());
  }

  // Members are destroyed from the last to the first: the context before the engine, the engine
  // before the runtime.
  std::size_t classes_;
  Preprocessing preprocessing_;
  std::string file_;
  std::string rebuild_;
  std::string provider_;
  std::string input_;
  std::string output_;
  bool floats_ = false;
  bool mapped_ = false;
  Log log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  Stream stream_;
  std::unique_ptr<Buffer> in_;
  std::unique_ptr<Buffer> out_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  Graph graph_;
};

}  // namespace

const char* tensorrt_version() {
  static const std::string version = runtime_version();
  return version.c_str();
}

std::string tensorrt_misfit(const Bundle& bundle, const Artifact& plan) {
  return plan_fit(bundle, plan, this_device()).misfit;
}

std::string tensorrt_differs(const Bundle& bundle, const Artifact& plan) {
  return plan_fit(bundle, plan, this_device()).difference;
}

std::unique_ptr<Engine> tensorrt_load(const Bundle& bundle, const Artifact& plan,
                                      const EngineOptions& options) {
  return std::make_unique<TensorRtEngine>(bundle, plan, options);
}

}  // namespace fer_edge
