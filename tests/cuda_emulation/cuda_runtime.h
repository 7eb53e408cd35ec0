// Just enough of CUDA to run csrc/kernels_cuda.cu on a CPU: every thread of a block is a fiber, and a few blocks run at
// once. Slow, and it says nothing of speed, but indices, windows, sums, barriers and what blocks wait for are those of
// the real kernels.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <numeric>
#include <thread>
#include <vector>

#define __CUDA_ARCH__ 900
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local  // a thread of the CPU runs one block at a time

struct Index {
  unsigned x;
};
struct float2 {
  float x, y;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline thread_local Index threadIdx, blockIdx, blockDim;

namespace emulation {

struct Block {
  ucontext_t scheduler;
  std::vector<ucontext_t> fibers;
  std::vector<std::vector<char>> stacks;
  std::vector<bool> done;
  std::vector<float> exchanged;
  std::function<void()> kernel;
};
inline thread_local Block block;

constexpr int64_t running_blocks = 3;  // fewer than most launches have

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

inline float __log2f(float x) { return std::log2(x); }
inline uint32_t __umulhi(uint32_t x, uint32_t y) { return static_cast<uint32_t>(uint64_t{x} * y >> 32); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline void __sincosf(float x, float* sine, float* cosine) {
  *sine = std::sin(x);
  *cosine = std::cos(x);
}
inline void __trap() { std::abort(); }
inline void __nanosleep(unsigned) {
  static thread_local int64_t turns = 0;
  if (++turns > 100'000'000) std::abort();  // a block waits for one that cannot begin
  std::this_thread::yield();
}
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
template <typename Words>
void __stcs(Words* address, Words words) {
  *address = words;
}
inline unsigned atomicAdd(unsigned* address, unsigned value) {
  return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}

enum cudaError_t { cudaSuccess };
inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
using cudaStream_t = void*;
inline cudaError_t cudaMemsetAsync(void* address, int value, size_t bytes, cudaStream_t) {
  std::memset(address, value, bytes);
  return cudaSuccess;
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void*, Arguments... arguments) {
  if (threads < 1 || threads > 1024 || threads % 32) std::abort();
  // Blocks begin in any order that the device likes; here in one that is far from that of their indices.
  const int64_t stride = blocks / 2 | 1;
  const int64_t order = std::gcd(stride, blocks) == 1 ? stride : 1;
  std::atomic<int64_t> begun = 0;
  const auto run_blocks = [&] {
    emulation::block.kernel = [=] { kernel(arguments...); };
    blockDim.x = static_cast<unsigned>(threads);
    for (int64_t turn; (turn = begun++) < blocks;) {
      blockIdx.x = static_cast<unsigned>((blocks - 1 - turn) * order % blocks);
      emulation::run_block(blockDim.x);
    }
  };
  std::vector<std::thread> workers;
  for (int64_t i = 1; i < std::min(blocks, emulation::running_blocks); ++i) workers.emplace_back(run_blocks);
  run_blocks();
  for (std::thread& worker : workers) worker.join();
}
