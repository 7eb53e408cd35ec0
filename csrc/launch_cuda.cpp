// The CUDA entry points: how a pass is cut into blocks, and the launches, on the driver's interface.

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "cuda_driver.h"
#include "input_transform.h"
#include "kernels.h"
#include "plan.h"

namespace gan_regularizers {
namespace {

constexpr int64_t own_block_bytes = 1 << 16;  // a sample of this size is read twice by one block, then from its cache
constexpr int64_t most_turns = 4;             // of a thread
constexpr int64_t blocks_at_once = 4;         // that a multiprocessor runs, about
constexpr int most_devices = 64;

// A kernel's place in the table. Those of a pass have one for each dtype.
enum Kernel : int {
  flat = 0,
  channels = 1,  // each for itself, and the next three mix them
  rgb = 3,
  mixed = 5,
  of_dtype = 7,
  draw_kernel = 3 * of_dtype,
  kernel_count
};

const std::vector<std::pair<std::string, std::string>>& kernels() {
  static const auto table = [] {
    std::vector<std::pair<std::string, std::string>> all;
    const auto add = [&](const char* macro, const std::string& name, const std::string& arguments = "") {
      all.emplace_back(name, std::string(macro) + "(" + name + arguments + ")");
    };
    for (const std::string dtype : {"float16", "bfloat16", "float32"}) {
      add("GR_FLAT", "flat_" + dtype, ", " + dtype);
      for (const auto& [name, arguments] :
           {std::pair{"channels_", ", 0, false"}, {"rgb_", ", 3, true"}, {"mixed_", ", 0, true"}})
        for (const auto& [layout, last] : {std::pair{"_nchw", ", false"}, {"_nhwc", ", true"}})
          add("GR_APPLY", name + dtype + layout, ", " + dtype + arguments + last);
    }
    add("GR_DRAW", "draw");
    return all;
  }();
  return table;
}

CudaImages images;

// What is loaded for one device. The context is torch's too, the primary one. Only what is never taken back is written,
// so threads need no lock: of two that load a kernel at once one wins.
struct Device {
  std::atomic<CudaContext> context{nullptr};
  int64_t blocks_at_once = 0;
  std::array<std::atomic<CudaFunction>, kernel_count> functions{};
};
std::array<Device, most_devices> devices;

// Lets this thread load modules while another one captures a graph.
class Relaxed {
 public:
  Relaxed() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }
  ~Relaxed() { driver().cuThreadExchangeStreamCaptureMode(&mode_); }

 private:
  int mode_ = cuda_capture_mode_relaxed;
};

// Makes a device's context the current one for a while.
class OnDevice {
 public:
  explicit OnDevice(int ordinal) : device(of(ordinal)), ordinal(ordinal) {
    CudaContext context = device.context.load(std::memory_order_acquire), current = nullptr;
    if (!context) context = begin();
    check_cuda(driver().cuCtxGetCurrent(&current), "asking for the context");
    pushed_ = current != context;
    if (pushed_) check_cuda(driver().cuCtxPushCurrent_v2(context), "going to the device");
  }
  ~OnDevice() {
    CudaContext context;
    if (pushed_) driver().cuCtxPopCurrent_v2(&context);
  }
  OnDevice(const OnDevice&) = delete;

  // A kernel, loaded at its first use.
  CudaFunction function(int kernel, CudaStream stream) {
    const CudaFunction known = device.functions[kernel].load(std::memory_order_acquire);
    if (known) return known;
    int capturing = 0;
    check_cuda(driver().cuStreamIsCapturing(stream, &capturing), "asking whether a graph is captured");
    if (capturing)
      throw TransientError("the kernel " + kernels()[kernel].first +
                           " has not run on this device yet, and a CUDA graph that is being captured cannot load it; "
                           "run the step once before it is captured");
    return load(kernel);
  }

  CudaFunction load(int kernel) {
    const std::string& name = kernels()[kernel].first;
    const std::string image = images(name, ordinal);
    CudaModule module;
    CudaFunction function;
    {
      const Relaxed relaxed;
      check_cuda(driver().cuModuleLoadData(&module, image.data()), ("loading the kernel " + name).c_str());
      check_cuda(driver().cuModuleGetFunction(&function, module, ("gan_regularizers_" + name).c_str()),
                 ("finding the kernel " + name).c_str());
    }
    CudaFunction before = nullptr;
    if (device.functions[kernel].compare_exchange_strong(before, function)) return function;
    driver().cuModuleUnload(module);
    return before;
  }

  template <typename... Arguments>
  void launch(int kernel, int64_t blocks, int threads, void* on, Arguments... arguments) {
    const auto stream = static_cast<CudaStream>(on);
    void* addresses[] = {&arguments...};
    check_cuda(driver().cuLaunchKernel(function(kernel, stream), static_cast<unsigned>(blocks), 1, 1,
                                       static_cast<unsigned>(threads), 1, 1, 0, stream, addresses, nullptr),
               "a launch");
  }

  Device& device;
  const int ordinal;

 private:
  static Device& of(int ordinal) {
    if (ordinal < 0 || ordinal >= most_devices) refuse("device " + std::to_string(ordinal));
    return devices[ordinal];
  }

  CudaContext begin() {
    int handle, multiprocessors;
    CudaContext context;
    check_cuda(driver().cuDeviceGet(&handle, ordinal), "finding the device");
    check_cuda(driver().cuDeviceGetAttribute(&multiprocessors, cuda_multiprocessor_count, handle),
               "counting multiprocessors");
    check_cuda(driver().cuDevicePrimaryCtxRetain(&context, handle), "taking up the device's context");
    device.blocks_at_once = std::max(1, multiprocessors) * gan_regularizers::blocks_at_once;
    device.context.store(context, std::memory_order_release);
    return context;
  }

  bool pushed_;
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// running: the blocks that the device runs at once, about. Sums do not depend on it.
Plan plan_of(const Pass& pass, int64_t running) {
  const Shape& shape = pass.shape;
  const int64_t pixels = shape.height * shape.width, elements = shape.channels * pixels;
  const bool planar_noise = pass.parts.noise_std && shape.channels_last && shape.channels > 1;
  Plan plan;
  const bool whole = picture_channels(pass) == shape.channels;
  plan.flat = !pass.parts.shift && !pass.parts.cutout && !mixes_channels(pass) && !planar_noise && whole;
  const bool own_block = pass.parts.contrast && elements * bytes_of(pass.dtype) <= own_block_bytes;
  const int64_t vector = plan.flat ? 16 / bytes_of(pass.dtype) : 4;
  const int64_t items = ceil_div(mixes_channels(pass) ? pixels : elements, vector);  // that a thread has in one turn
  plan.threads = own_block && items > block_threads ? most_threads : block_threads;
  // Large batches give a thread several turns, so that what it does before them counts less.
  const int64_t most_blocks = ceil_div(items, plan.threads);
  const int64_t turns = std::clamp<int64_t>(shape.samples * most_blocks / (2 * running), 1, most_turns);
  plan.blocks = own_block ? 1 : ceil_div(most_blocks, turns);
  plan.slices = pass.parts.contrast && !own_block ? ceil_div(summed_elements(pass), slice_elements) : 0;
  plan.lead = plan.slices ? std::min(ceil_div(running, plan.slices + plan.blocks), shape.samples) : 0;
  return plan;
}

int kernel_of(const Pass& pass, const Plan& plan) {
  const Shape& shape = pass.shape;
  const int first = static_cast<int>(pass.dtype) * of_dtype;
  if (plan.flat) return first + flat;
  const bool last = shape.channels_last && shape.channels > 1;
  if (!mixes_channels(pass)) return first + channels + last;
  return first + (picture_channels(pass) == 3 && (!last || shape.channels == 3) ? rgb : mixed) + last;
}

}  // namespace

int open_cuda_driver(const std::string& library) {
  const int version = open_driver(library).version;
  for (Device& device : devices) {  // what was loaded belongs to another driver
    device.context = nullptr;
    for (auto& function : device.functions) function = nullptr;
  }
  return version;
}

std::vector<std::pair<std::string, std::string>> cuda_kernels() { return kernels(); }

void set_cuda_images(CudaImages source) { images = std::move(source); }

void load_cuda(const std::string& name, int device) {
  for (int kernel = 0; kernel < kernel_count; ++kernel) {
    if (kernels()[kernel].first != name) continue;
    OnDevice on_device(device);
    if (!on_device.device.functions[kernel]) on_device.load(kernel);
    return;
  }
  refuse("no kernel is called " + name);
}

void transform_cuda(const Pass& pass, const std::function<float*(int64_t)>& workspace, int ordinal, void* stream) {
  if (pass.dtype == Dtype::float64) refuse("the CUDA kernels take no float64");
  if (checked_elements(pass) == 0) return;
  OnDevice on_device(ordinal);
  const Shape& shape = pass.shape;
  const Plan plan = plan_of(pass, on_device.device.blocks_at_once);
  // Offsets within a sample are 32 bits wide there, and a box is moved by as much as a side.
  if (!plan.flat &&
      (shape.channels * shape.height * shape.width > INT32_MAX || std::max(shape.height, shape.width) > INT32_MAX / 2))
    refuse(
        "a sample has more than 2^31 - 1 elements, or a side more than 2^30 - 1 pixels; only noise, gain, "
        "brightness and contrast of all channels take that");
  const int64_t turns = plan.slices + plan.blocks, rounds = shape.samples + plan.lead;
  if (turns > INT32_MAX / rounds) refuse("the batch needs more blocks than a launch has; split it");
  const int64_t pixels = plan.flat ? 1 : shape.height * shape.width;
  const Divisors by{Divider(turns), Divider(plan.flat ? 1 : shape.channels), Divider(pixels),
                    Divider(plan.flat ? 1 : shape.width), Divider(ceil_div(pixels, 4))};
  Progress progress = {};
  if (plan.slices) {
    const int64_t counters = 1 + shape.samples;
    float* const memory = workspace(counters + shape.samples * plan.slices);
    if (!memory) refuse("workspace is a null pointer");
    const auto exchanged = reinterpret_cast<Exchanged<unsigned>*>(memory);
    progress = {memory + counters, exchanged, exchanged + 1};
    check_cuda(driver().cuMemsetD32Async(reinterpret_cast<uintptr_t>(memory), 0, static_cast<size_t>(counters),
                                         static_cast<CudaStream>(stream)),
               "clearing the counters");
  }
  on_device.launch(kernel_of(pass, plan), rounds * turns, plan.threads, stream, pass, plan, by, progress);
}

void draw_cuda(const Draw& draw, int device, void* stream) {
  check(draw);
  if (draw.samples == 0) return;
  OnDevice(device).launch(draw_kernel, ceil_div(draw.samples, block_threads), block_threads, stream, draw);
}

}  // namespace gan_regularizers
