// Just enough of CUDA to run csrc/kernels_cuda.cu on a CPU: every thread of a block is a fiber, blocks run one after
// the other. Slow, and it says nothing of speed, but indices, windows, sums and barriers are those of the real kernels.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <vector>

#define __CUDA_ARCH__ 900
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static  // one block runs at a time

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, blockDim;

namespace emulation {

struct Block {
  ucontext_t scheduler;
  std::vector<ucontext_t> fibers;
  std::vector<std::vector<char>> stacks;
  std::vector<bool> done;
  std::vector<float> exchanged;
  std::function<void()> kernel;
};
inline Block block;

inline void yield() {
  const unsigned self = threadIdx.x;
  swapcontext(&block.fibers[self], &block.scheduler);
}

inline void enter() {
  block.kernel();
  block.done[threadIdx.x] = true;
}

// Runs every fiber up to its next barrier, again and again; in the opposite order on odd blocks, so that a result that
// leans on the order shows.
inline void run_block(unsigned threads) {
  block.fibers.resize(threads);
  block.stacks.resize(threads, std::vector<char>(1 << 16));
  block.done.assign(threads, false);
  block.exchanged.resize(threads);
  for (unsigned t = 0; t < threads; ++t) {
    getcontext(&block.fibers[t]);
    block.fibers[t].uc_stack.ss_sp = block.stacks[t].data();
    block.fibers[t].uc_stack.ss_size = block.stacks[t].size();
    block.fibers[t].uc_link = &block.scheduler;
    makecontext(&block.fibers[t], enter, 0);
  }
  for (bool running = true; running;) {
    running = false;
    for (unsigned i = 0; i < threads; ++i) {
      const unsigned t = blockIdx.x % 2 ? threads - 1 - i : i;
      if (block.done[t]) continue;
      threadIdx.x = t;
      swapcontext(&block.scheduler, &block.fibers[t]);
      running = true;
    }
  }
}

}  // namespace emulation

inline void __syncthreads() { emulation::yield(); }

inline float __shfl_xor_sync(unsigned, float value, int distance) {
  const unsigned self = threadIdx.x;
  emulation::block.exchanged[self] = value;
  __syncthreads();
  const float other = emulation::block.exchanged[self ^ static_cast<unsigned>(distance)];
  __syncthreads();
  return other;
}

inline float __logf(float x) { return std::log(x); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline void __sincosf(float x, float* sine, float* cosine) {
  *sine = std::sin(x);
  *cosine = std::cos(x);
}
inline void __trap() { std::abort(); }

enum cudaError_t { cudaSuccess };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void*, Arguments... arguments) {
  if (threads < 1 || threads > 1024 || threads % 32) std::abort();
  emulation::block.kernel = [=] { kernel(arguments...); };
  blockDim.x = static_cast<unsigned>(threads);
  for (int64_t index = 0; index < blocks; ++index) {
    blockIdx.x = static_cast<unsigned>(index);
    emulation::run_block(blockDim.x);
  }
}
