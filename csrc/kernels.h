// The kernels' entry points on the host; nothing of torch.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "pass.h"

namespace gan_regularizers {

// All of them throw std::invalid_argument, before any work, for what cannot be run.

// The instruction sets that this build has and this machine runs, the preferred one last.
std::vector<std::string> cpu_instruction_sets();

// instruction_set: an index into them, or -1 for the preferred one.
void transform_cpu(const Pass& pass, int threads, int instruction_set);

// The same with a gain, a noise_std and a seed for every channel, [N, C] each, and no other part.
void transform_channels_cpu(const Pass& pass, int threads, int instruction_set);

// The normals of elements 4 block .. 4 block + 3, for the known answers.
std::array<double, 4> normal_block_cpu(uint64_t seed, uint64_t block, Dtype dtype, int instruction_set);

void draw_cpu(const Draw& draw);

// What the driver refuses now and may not refuse later: for want of memory, or since a graph is captured.
class TransientError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Opens CUDA's driver, by the name of its library, and returns its version, such as 13000. Throws std::runtime_error
// where it cannot be opened, lacks a function or finds no device.
int open_cuda_driver(const std::string& library);

// Every kernel that there is: its name, and the line that makes it, to be compiled after kernels_cuda.cu.
std::vector<std::pair<std::string, std::string>> cuda_kernels();

// Where the image of a kernel comes from, a cubin for a device; called once for each, at its first launch there.
using CudaImages = std::function<std::string(const std::string& kernel, int device)>;
void set_cuda_images(CudaImages images);

// Loads a kernel for a device now rather than at its first launch.
void load_cuda(const std::string& kernel, int device);

// These return before the device is done, and throw std::runtime_error for what the driver refuses. A pass may need a
// workspace on the device, which it asks for as a number of floats.
void transform_cuda(const Pass& pass, const std::function<float*(int64_t)>& workspace, int device, void* stream);
void draw_cuda(const Draw& draw, int device, void* stream);

}  // namespace gan_regularizers
