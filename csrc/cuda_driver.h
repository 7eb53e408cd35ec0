// CUDA's driver, opened when the program runs: nothing of CUDA is there when this is compiled.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace gan_regularizers {

// The driver's own types: results, handles and addresses.
using CudaResult = int;
using CudaContext = struct CudaContextHandle*;
using CudaModule = struct CudaModuleHandle*;
using CudaFunction = struct CudaFunctionHandle*;
using CudaStream = struct CudaStreamHandle*;
using CudaAddress = unsigned long long;

constexpr CudaResult cuda_success = 0;
constexpr int cuda_multiprocessor_count = 16;  // an attribute of a device
constexpr int cuda_capture_mode_relaxed = 2;   // in which a capture elsewhere forbids this thread nothing

// The functions that are used, under the names by which the driver exports them.
struct CudaDriver {
  int version;
  CudaResult (*cuInit)(unsigned flags);
  CudaResult (*cuDriverGetVersion)(int* version);
  CudaResult (*cuDeviceGet)(int* device, int ordinal);
  CudaResult (*cuDeviceGetAttribute)(int* value, int attribute, int device);
  CudaResult (*cuDevicePrimaryCtxRetain)(CudaContext* context, int device);
  CudaResult (*cuCtxGetCurrent)(CudaContext* context);
  CudaResult (*cuCtxPushCurrent_v2)(CudaContext context);
  CudaResult (*cuCtxPopCurrent_v2)(CudaContext* context);
  CudaResult (*cuModuleLoadData)(CudaModule* module, const void* image);
  CudaResult (*cuModuleUnload)(CudaModule module);
  CudaResult (*cuModuleGetFunction)(CudaFunction* function, CudaModule module, const char* name);
  CudaResult (*cuLaunchKernel)(CudaFunction function, unsigned blocks_x, unsigned blocks_y, unsigned blocks_z,
                               unsigned threads_x, unsigned threads_y, unsigned threads_z, unsigned shared_bytes,
                               CudaStream stream, void** arguments, void** extra);
  CudaResult (*cuMemsetD32Async)(CudaAddress address, unsigned value, size_t count, CudaStream stream);
  CudaResult (*cuStreamIsCapturing)(CudaStream stream, int* status);
  CudaResult (*cuThreadExchangeStreamCaptureMode)(int* mode);
  CudaResult (*cuGetErrorName)(CudaResult result, const char** name);
  CudaResult (*cuGetErrorString)(CudaResult result, const char** text);
};

// All throw std::runtime_error, with a sentence for a person; TransientError where another time may do.

// Opens the driver; throws where there is none, or one without these functions.
const CudaDriver& open_driver(const std::string& library);
// The one that was opened last.
const CudaDriver& driver();
// Throws for what the driver refused.
void check_cuda(CudaResult result, const char* what);

}  // namespace gan_regularizers
