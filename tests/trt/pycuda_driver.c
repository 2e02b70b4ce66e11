/* A CUDA driver for the real pycuda, without a GPU: host memory for device memory, and counters of
 * what is alive. Functions that pycuda names and these tests do not need are made by
 * pycuda_contract.py and answer CUDA_ERROR_NOT_SUPPORTED. Written for these tests. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int streams, events, device_memory, host_memory, retained, queries;
static __thread int depth;
static int total_depth;

const char *fer_edge_alive(void) {
  static char text[200];
  snprintf(text, sizeof text,
           "{\"streams\": %d, \"events\": %d, \"device memory\": %d, \"host memory\": %d, "
           "\"retained\": %d, \"pushed\": %d, \"queries\": %d}",
           streams, events, device_memory, host_memory, retained, total_depth, queries);
  return text;
}

static int count = 1;
void fer_edge_devices(int number) { count = number; }

int cuInit(unsigned flags) { return count ? 0 : 100; }
int cuDriverGetVersion(int *version) { *version = 13000; return 0; }
int cuGetErrorString(int error, const char **text) { *text = "no CUDA-capable device is detected"; return 0; }
int cuDeviceGetCount(int *number) { *number = count; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { ++retained; *context = &retained; return 0; }
int cuDevicePrimaryCtxRelease(int device) { --retained; return 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return cuDevicePrimaryCtxRelease(device); }
int cuCtxPushCurrent(void *context) { ++depth; ++total_depth; return 0; }
int cuCtxPushCurrent_v2(void *context) { return cuCtxPushCurrent(context); }
int cuCtxPopCurrent(void **context) {
  if (depth == 0) return 201;
  --depth; --total_depth;
  *context = &retained;
  return 0;
}
int cuCtxPopCurrent_v2(void **context) { return cuCtxPopCurrent(context); }
int cuCtxGetDevice(int *device) { *device = 0; return depth ? 0 : 201; }

int cuMemAlloc_v2(void **pointer, size_t size) {
  if (depth == 0) return 201;
  *pointer = malloc(size);
  memset(*pointer, 0xA5, size);
  ++device_memory;
  return 0;
}
int cuMemFree_v2(void *pointer) { free(pointer); --device_memory; return 0; }
int cuMemHostAlloc(void **pointer, size_t size, unsigned flags) {
  *pointer = calloc(1, size);
  ++host_memory;
  return 0;
}
int cuMemFreeHost(void *pointer) { free(pointer); --host_memory; return 0; }
int cuMemHostGetDevicePointer_v2(void **device, void *host, unsigned flags) { *device = host; return 0; }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t size, void *stream) { memcpy(to, from, size); return 0; }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t size, void *stream) { memcpy(to, from, size); return 0; }

int cuStreamCreate(void **stream, unsigned flags) {
  if (depth == 0 || flags != 1) return 1;
  *stream = malloc(1);
  ++streams;
  return 0;
}
int cuStreamDestroy_v2(void *stream) { free(stream); --streams; return depth ? 0 : 201; }
int cuStreamSynchronize(void *stream) { return 0; }
int cuStreamQuery(void *stream) { return ++queries % 3 ? 600 : 0; }

int cuEventCreate(void **event, unsigned flags) { *event = calloc(1, sizeof(int)); ++events; return depth ? 0 : 201; }
int cuEventDestroy_v2(void *event) { free(event); --events; return depth ? 0 : 201; }
int cuEventRecord(void *event, void *stream) { static int clock; *(int *)event = ++clock; return 0; }
int cuEventSynchronize(void *event) { return 0; }
int cuEventElapsedTime(float *ms, void *start, void *end) { *ms = 0.125f * (*(int *)end - *(int *)start); return 0; }
int cuEventElapsedTime_v2(float *ms, void *start, void *end) { return cuEventElapsedTime(ms, start, end); }
