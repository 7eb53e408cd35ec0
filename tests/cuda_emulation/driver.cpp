// A stand-in of CUDA's driver, to be opened in its place: what it launches runs in an emulation of the device
// (device.h). It is as strict as the real one where a launcher may go wrong, and fails where a test tells it to.

#include <unistd.h>

#include <array>

#include "device.h"

// The kernels, which take what a device has from there, and every line that makes one.
#include "kernels_cuda.cu"

#include "kernels.inc"

namespace {

constexpr int devices = 2;
constexpr int invalid_value = 1, not_initialized = 3, invalid_image = 200, invalid_context = 201, no_binary = 209,
              invalid_handle = 400, not_found = 500, invalid_device = 101, capture_unsupported = 900;

struct Context {
  int device;
};
std::array<Context, devices> contexts = {{{0}, {1}}};
thread_local std::vector<Context*> stack;
constexpr int relaxed = 2;
thread_local int capture_mode = 0;

struct Module {
  Context* context;
  std::string image;
};
struct Function {
  Context* context;
  const emulation::Entry* entry;
};

pid_t started_by = 0;
std::mutex guarded;
std::map<std::string, int64_t> settings = {{"version", 13000}, {"multiprocessors", 1}}, counted;

int64_t setting(const char* name) {
  const std::lock_guard lock(guarded);
  return settings[name];
}
void count(const char* name, int64_t value = 1) {
  const std::lock_guard lock(guarded);
  counted[name] += value;
}
void note(const char* name, void* stream) {
  const std::lock_guard lock(guarded);
  counted[name] = reinterpret_cast<intptr_t>(stream);
}
// Whether the driver can work in this process: not in one that was forked after it began.
int usable() { return started_by == getpid() ? 0 : not_initialized; }
Context* current() { return stack.empty() ? nullptr : stack.back(); }

// Text, or a cubin, which says itself how long it is.
std::string contents(const void* image) {
  const auto* const bytes = static_cast<const char*>(image);
  if (std::memcmp(bytes,
                  "\x7f"
                  "ELF",
                  4) != 0)
    return bytes;
  uint64_t headers;
  uint16_t size, number;
  std::memcpy(&headers, bytes + 40, 8);
  std::memcpy(&size, bytes + 58, 2);
  std::memcpy(&number, bytes + 60, 2);
  return std::string(bytes, headers + uint64_t{size} * number);
}

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// What a test asks of the stand-in.
EXPORT void stand_in_set(const char* name, int64_t value) {
  const std::lock_guard lock(guarded);
  settings[name] = value;
}
EXPORT int64_t stand_in_count(const char* name) {
  const std::lock_guard lock(guarded);
  return counted[name];
}
EXPORT void stand_in_run_last_blocks(int64_t blocks) { emulation::last_blocks = blocks; }
EXPORT void stand_in_normal_block(uint64_t seed, uint64_t block, float* normals) {
  float four[4];
  gan_regularizers::normal_block(seed, block, four);
  std::copy_n(four, 4, normals);
}
EXPORT float stand_in_sum_of_halves(const void* input, int64_t elements, int64_t begin, int64_t end) {
  using namespace gan_regularizers;
  Pass pass = {};
  pass.shape = {1, 1, 1, elements, false};
  pass.input = input;
  pass.picture.end = 1;
  const Divider one(1);
  blockDim.x = 1;
  threadIdx.x = 0;
  return partial_sum<false, float16>(pass, Divisors{one, one, one, one, one}, 0, begin, end);
}

EXPORT int cuInit(unsigned) {
  if (const int64_t failure = setting("cuInit")) return static_cast<int>(failure);
  if (started_by && started_by != getpid()) return not_initialized;
  started_by = getpid();
  return 0;
}
EXPORT int cuDriverGetVersion(int* version) {
  *version = static_cast<int>(setting("version"));
  return 0;
}
EXPORT int cuDeviceGet(int* device, int ordinal) {
  *device = ordinal;
  return usable() ? usable() : ordinal < 0 || ordinal >= devices ? invalid_device : 0;
}
EXPORT int cuDeviceGetAttribute(int* value, int attribute, int) {
  *value = static_cast<int>(setting("multiprocessors"));
  return attribute == 16 ? 0 : invalid_value;
}
EXPORT int cuDevicePrimaryCtxRetain(Context** context, int device) {
  if (device < 0 || device >= devices) return invalid_device;
  count("cuDevicePrimaryCtxRetain");
  *context = &contexts[device];
  return usable();
}
EXPORT int cuCtxGetCurrent(Context** context) {
  *context = current();
  return usable();
}
EXPORT int cuCtxPushCurrent_v2(Context* context) {
  if (!context) return invalid_context;
  stack.push_back(context);
  return usable();
}
EXPORT int cuCtxPopCurrent_v2(Context** context) {
  if (stack.empty()) return invalid_context;
  *context = current();
  stack.pop_back();
  return 0;
}
EXPORT int64_t stand_in_contexts() { return static_cast<int64_t>(stack.size()); }
EXPORT int64_t stand_in_capture_mode() { return capture_mode; }
EXPORT int cuModuleLoadData(Module** module, const void* image) {
  if (!current()) return invalid_context;
  if (const int64_t failure = setting("cuModuleLoadData")) return static_cast<int>(failure);
  if ((setting("capturing") || setting("captured elsewhere")) && capture_mode != relaxed) return capture_unsupported;
  std::string content = contents(image);
  if (content.find("gan_regularizers_") == std::string::npos) return invalid_image;
  count("cuModuleLoadData");
  *module = new Module{current(), std::move(content)};
  return 0;
}
EXPORT int cuModuleUnload(Module*) {
  count("cuModuleUnload");
  return 0;
}
EXPORT int cuModuleGetFunction(Function** function, Module* module, const char* name) {
  if (!current()) return invalid_context;
  const auto found = emulation::entries().find(name);
  if (module->image.find(name) == std::string::npos || found == emulation::entries().end()) return not_found;
  *function = new Function{module->context, &found->second};
  return 0;
}
EXPORT int cuLaunchKernel(Function* function, unsigned blocks, unsigned blocks_y, unsigned blocks_z, unsigned threads,
                          unsigned threads_y, unsigned threads_z, unsigned shared_bytes, void* stream, void** arguments,
                          void** extra) {
  if (const int64_t failure = setting("cuLaunchKernel")) return static_cast<int>(failure);
  if (usable()) return usable();
  if (!current() || function->context != current()) return invalid_handle;
  if (blocks == 0 || blocks > INT32_MAX || blocks_y != 1 || blocks_z != 1 || threads_y != 1 || threads_z != 1 ||
      threads == 0 || threads % 32 || threads > function->entry->most_threads || shared_bytes || extra)
    return invalid_value;
  count("cuLaunchKernel");
  note("stream of cuLaunchKernel", stream);
  count(function->context->device ? "launches on 1" : "launches on 0");
  emulation::launch(function->entry->kernel(arguments), blocks, threads);
  return 0;
}
EXPORT int cuMemsetD32Async(unsigned long long address, unsigned value, size_t words, void* stream) {
  if (!current()) return invalid_context;
  count("cuMemsetD32Async");
  note("stream of cuMemsetD32Async", stream);
  std::fill_n(reinterpret_cast<unsigned*>(address), words, value);
  return 0;
}
EXPORT int cuStreamIsCapturing(void* stream, int* status) {
  if (!current()) return invalid_context;
  note("stream of cuStreamIsCapturing", stream);
  *status = static_cast<int>(setting("capturing"));
  return 0;
}
EXPORT int cuThreadExchangeStreamCaptureMode(int* mode) {
  std::swap(*mode, capture_mode);
  return 0;
}
EXPORT int cuGetErrorName(int result, const char** name) {
  static thread_local std::string text;
  text = "CUDA_ERROR_" + std::to_string(result);
  *name = text.c_str();
  return 0;
}
EXPORT int cuGetErrorString(int, const char** text) {
  *text = "as the test wants it";
  return 0;
}
