// Our replacement for NVIDIA's header of the same name, for machines without TensorRT. It declares
// the names that engines/cpp/src/engine_tensorrt.cpp uses, with the signatures of NVIDIA's public
// documentation of TensorRT 8.6 and 10. It shows that the file compiles and that its logic is
// right, but not that it works with TensorRT.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#ifndef NV_TENSORRT_MAJOR
#define NV_TENSORRT_MAJOR 10
#define NV_TENSORRT_MINOR 3
#define NV_TENSORRT_PATCH 0
#endif

namespace nvinfer1 {

using AsciiChar = char;

enum class DataType : int32_t {
  kFLOAT = 0,
  kHALF = 1,
  kINT8 = 2,
  kINT32 = 3,
  kBOOL = 4,
  kUINT8 = 5,
};

enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

class Dims {
 public:
  static constexpr int32_t MAX_DIMS{8};
  int32_t nbDims;
#if NV_TENSORRT_MAJOR >= 10
  int64_t d[MAX_DIMS];
#else
  int32_t d[MAX_DIMS];
#endif
};

class ILogger {
 public:
  enum class Severity : int32_t {
    kINTERNAL_ERROR = 0,
    kERROR = 1,
    kWARNING = 2,
    kINFO = 3,
    kVERBOSE = 4,
  };
  virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
  ILogger() = default;
  virtual ~ILogger() = default;
};

class INoCopy {
 protected:
  INoCopy() = default;
  INoCopy(const INoCopy&) = delete;
  INoCopy& operator=(const INoCopy&) = delete;
};

class IExecutionContext : public INoCopy {
 public:
  virtual ~IExecutionContext() noexcept = default;
  bool setInputShape(char const* tensorName, Dims const& dims) noexcept;
  bool setTensorAddress(char const* tensorName, void* data) noexcept;
  bool enqueueV3(cudaStream_t stream) noexcept;

  void const* fakeInput = nullptr;
  void* fakeOutput = nullptr;
  bool fakeFloats = false;
};

#if NV_TENSORRT_MAJOR >= 10
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC = 0 };
#endif

class ICudaEngine : public INoCopy {
 public:
  virtual ~ICudaEngine() noexcept = default;
  int32_t getNbIOTensors() const noexcept;
  char const* getIOTensorName(int32_t index) const noexcept;
  TensorIOMode getTensorIOMode(char const* tensorName) const noexcept;
  DataType getTensorDataType(char const* tensorName) const noexcept;
  Dims getTensorShape(char const* tensorName) const noexcept;
#if NV_TENSORRT_MAJOR >= 10
  IExecutionContext* createExecutionContext(
      ExecutionContextAllocationStrategy strategy
      = ExecutionContextAllocationStrategy::kSTATIC) noexcept;
#else
  IExecutionContext* createExecutionContext() noexcept;
#endif

  bool fakeFloats = false;
};

class IRuntime : public INoCopy {
 public:
  virtual ~IRuntime() noexcept = default;
  ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;
  void setDLACore(int32_t dlaCore) noexcept;
  int32_t getDLACore() const noexcept;
  int32_t getNbDLACores() const noexcept;

  int32_t fakeCore = -1;
  ILogger* fakeLogger = nullptr;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1

// The version of the library, which may differ from that of the header.
extern "C" int32_t getInferLibVersion() noexcept;
#if NV_TENSORRT_MAJOR >= 10
extern "C" int32_t getInferLibMajorVersion() noexcept;
extern "C" int32_t getInferLibMinorVersion() noexcept;
extern "C" int32_t getInferLibPatchVersion() noexcept;
extern "C" int32_t getInferLibBuildVersion() noexcept;
#endif
