// The CUDA runtime functions that engine_tensorrt.cpp calls, on host memory, with NVIDIA's real
// header. FAKE_CUDA selects a failure: "no device", "no capture" or "no mapped memory". FAKE_SM: 87
// for 8.7. FAKE_SMS: the multiprocessors. FAKE_CALLS: a file that gets a line for each call of some.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
  bool capturing = false;
  Work captured;
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};

namespace {

bool told_to(char const* what) {
  char const* value = std::getenv("FAKE_CUDA");
  return value != nullptr && std::string(value) == what;
}

int number(char const* variable, int otherwise) {
  char const* text = std::getenv(variable);
  return text != nullptr ? std::atoi(text) : otherwise;
}

void called(std::string const& call) {
  char const* file = std::getenv("FAKE_CALLS");
  if (file != nullptr) std::ofstream(file, std::ios::app) << call << '\n';
}

}  // namespace

void fake_submit(cudaStream_t stream, std::function<void()> work) {
  if (stream->capturing) {
    stream->captured.push_back(std::move(work));
  } else {
    work();
  }
}

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  *count = told_to("no device") ? 0 : 1;
  return told_to("no device") ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  int const sm = number("FAKE_SM", 87);
  *value = attribute == cudaDevAttrComputeCapabilityMajor   ? sm / 10
           : attribute == cudaDevAttrComputeCapabilityMinor ? sm % 10
           : attribute == cudaDevAttrCanMapHostMemory       ? !told_to("no mapped memory")
                                                            : -1;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  properties->multiProcessorCount = number("FAKE_SMS", 8);
  properties->totalGlobalMem = size_t{7620} << 20;
  return cudaSuccess;
}

cudaError_t cudaSetDeviceFlags(unsigned int flags) {
  called("cudaSetDeviceFlags " + std::to_string(flags));
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t size) {
  *pointer = std::malloc(size);
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** pointer, size_t size, unsigned int flags) {
  called("cudaHostAlloc " + std::to_string(flags));
  return cudaMalloc(pointer, size);
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned int) {
  *device = host;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) { return cudaFree(pointer); }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return stream->capturing ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind,
                            cudaStream_t stream) {
  called("cudaMemcpyAsync");
  fake_submit(stream, [=] { std::memcpy(to, from, size); });
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capturing = false;
  if (told_to("no capture")) return cudaErrorStreamCaptureInvalidated;
  *graph = new CUgraph_st{std::move(stream->captured)};
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph,
                                          unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (auto const& work : executable->work) work();
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "a fake CUDA error";
}

}  // extern "C"
