#include "cuda_driver.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace gan_regularizers {
namespace {

CudaDriver opened = {};
bool is_open = false;

#if defined(_WIN32)
void* open_library(const std::string& name, std::string& error) {
  void* const library = reinterpret_cast<void*>(LoadLibraryA(name.c_str()));
  if (!library) error = name + ": error " + std::to_string(GetLastError());
  return library;
}
void* symbol(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(reinterpret_cast<HMODULE>(library), name));
}
#else
void* open_library(const std::string& name, std::string& error) {
  void* const library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) error = dlerror();
  return library;
}
void* symbol(void* library, const char* name) { return dlsym(library, name); }
#endif

// Points a function to the driver's of the same name.
template <typename Function>
void find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(symbol(library, name));
  if (!function)
    throw std::runtime_error(std::string("the NVIDIA driver is too old (it has no ") + name + "); install a newer one");
}

}  // namespace

const CudaDriver& open_driver(const std::string& name) {
  is_open = false;
  std::string error;
  void* const library = open_library(name, error);  // never closed: modules and functions of it may live on
  if (!library)
    throw std::runtime_error("no NVIDIA driver was found (" + error + "); install it, or let a container have it");
  CudaDriver found = {};
#define GR_FIND(function) find(library, #function, found.function)
  GR_FIND(cuInit);
  GR_FIND(cuDriverGetVersion);
  GR_FIND(cuDeviceGet);
  GR_FIND(cuDeviceGetAttribute);
  GR_FIND(cuDevicePrimaryCtxRetain);
  GR_FIND(cuCtxGetCurrent);
  GR_FIND(cuCtxPushCurrent_v2);
  GR_FIND(cuCtxPopCurrent_v2);
  GR_FIND(cuModuleLoadData);
  GR_FIND(cuModuleUnload);
  GR_FIND(cuModuleGetFunction);
  GR_FIND(cuLaunchKernel);
  GR_FIND(cuMemsetD32Async);
  GR_FIND(cuStreamIsCapturing);
  GR_FIND(cuThreadExchangeStreamCaptureMode);
  GR_FIND(cuGetErrorName);
  GR_FIND(cuGetErrorString);
#undef GR_FIND
  opened = found;
  is_open = true;
  try {
    check_cuda(opened.cuInit(0), "starting the driver, which needs a GPU that this process may see,");
    check_cuda(opened.cuDriverGetVersion(&opened.version), "asking for the driver's version");
  } catch (...) {
    is_open = false;
    throw;
  }
  return opened;
}

const CudaDriver& driver() {
  if (!is_open) throw std::runtime_error("the NVIDIA driver is not open");
  return opened;
}

void check_cuda(CudaResult result, const char* what) {
  if (result == cuda_success) return;
  const char *name = nullptr, *text = nullptr;
  if (opened.cuGetErrorName(result, &name) != cuda_success || !name) name = "an unknown error";
  if (opened.cuGetErrorString(result, &text) != cuda_success || !text) text = "no text";
  const std::string sentence = std::string("CUDA: ") + what + " failed: " + name + " (" + text + ")";
  if (result == 2 || (result >= 900 && result < 910)) throw TransientError(sentence);
  throw std::runtime_error(sentence);
}

}  // namespace gan_regularizers
