// Just enough of a device to run csrc/kernels_cuda.cu on a CPU: every thread of a block is a fiber, and a few blocks
// run at once. Slow, and it says nothing of speed, but indices, windows, sums, barriers and what blocks wait for are
// those of the real kernels, memory orders no more than CUDA promises, and approximations are as far off as they may
// be.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "bits.h"

#define __CUDA_ARCH__ 900
#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static thread_local  // a thread of the CPU runs one block at a time

struct Index {
  unsigned x;
};
struct alignas(8) uint2 {
  uint32_t x, y;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
inline thread_local Index threadIdx, blockIdx, blockDim;

namespace emulation {

// When something became visible to all.
using Time = uint64_t;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 16);
  bool done;
  float exchanged;
  Time heard_of;                           // the newest value that it has read
  Time knows;                              // it sees at least what was visible then
  std::map<const void*, uint32_t> stored;  // without a fence since, so nobody else sees it
  std::set<const void*> read;
};

struct Block {
  ucontext_t scheduler;
  std::vector<Fiber> fibers;
  Time knows;
  std::function<void()> kernel;
};
inline thread_local Block block;
inline Fiber& self() { return block.fibers[threadIdx.x]; }

// The words of global memory that blocks exchange while they run, as late as CUDA's memory model lets them be seen:
// what a thread stored, by nobody before a fence of its own; what is visible to all, by a thread that has fenced since
// it heard of something later, or that has met such a thread at a barrier. Without that a thread finds the value of
// long ago when it first looks. When it looks again it finds the newest one, so that waiting comes to an end.
class Memory {
 public:
  uint32_t load(const void* address) {
    const std::lock_guard lock(mutex_);
    Fiber& fiber = self();
    const auto own = fiber.stored.find(address);
    if (own != fiber.stored.end()) return own->second;
    const auto& known = values(address);
    auto value = std::prev(known.end());
    if (fiber.read.insert(address).second) value = std::prev(known.upper_bound(fiber.knows));
    fiber.heard_of = std::max(fiber.heard_of, value->first);
    return value->second;
  }

  void store(const void* address, uint32_t value) { self().stored[address] = value; }

  void fence() {
    const std::lock_guard lock(mutex_);
    Fiber& fiber = self();
    for (const auto& [address, value] : fiber.stored) values(address)[++now_] = value;
    fiber.stored.clear();
    fiber.knows = fiber.heard_of;
  }

  uint32_t add(const void* address, uint32_t value) {
    const std::lock_guard lock(mutex_);
    const auto [time, before] = *values(address).rbegin();
    values(address)[++now_] = before + value;
    self().heard_of = std::max(self().heard_of, time);
    return before;
  }

  void forget() { values_.clear(); }

 private:
  // What an address held, by the time from which on; at first what a launch finds there.
  std::map<Time, uint32_t>& values(const void* address) {
    auto& known = values_[address];
    if (known.empty()) std::memcpy(&known[0], address, sizeof(uint32_t));
    return known;
  }

  std::mutex mutex_;
  Time now_ = 0;
  std::map<const void*, std::map<Time, uint32_t>> values_;
};
inline Memory memory;

constexpr int64_t running_blocks = 3;    // fewer than most launches have
inline int64_t last_blocks = INT64_MAX;  // of a launch, that run; a test may leave the others out

inline void yield() { swapcontext(&self().context, &block.scheduler); }

inline void enter() {
  block.kernel();
  self().done = true;
}

// Runs every fiber up to its next barrier, again and again; in the opposite order on odd blocks, so that a result that
// leans on the order shows.
inline void run_block(unsigned threads) {
  block.fibers.resize(threads);
  block.knows = 0;
  for (Fiber& fiber : block.fibers) {
    fiber.done = false;
    fiber.heard_of = fiber.knows = 0;
    fiber.stored.clear();
    fiber.read.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = &block.scheduler;
    makecontext(&fiber.context, enter, 0);
  }
  for (bool running = true; running;) {
    running = false;
    for (unsigned i = 0; i < threads; ++i) {
      threadIdx.x = blockIdx.x % 2 ? threads - 1 - i : i;
      if (self().done) continue;
      swapcontext(&block.scheduler, &self().context);
      running = true;
    }
  }
}

}  // namespace emulation

// A word that blocks exchange.
template <typename T>
class Exchanged {
 public:
  operator T() const { return gan_regularizers::bit_cast<T>(emulation::memory.load(this)); }
  void operator=(T value) { emulation::memory.store(this, gan_regularizers::bit_cast<uint32_t>(value)); }

 private:
  T at_launch_;
};
inline unsigned atomicAdd(Exchanged<unsigned>* address, unsigned value) {
  return emulation::memory.add(address, value);
}
inline void __threadfence() { emulation::memory.fence(); }

// All threads of a block know what one of them knows.
inline void __syncthreads() {
  emulation::block.knows = std::max(emulation::block.knows, emulation::self().knows);
  emulation::yield();
  emulation::self().knows = emulation::block.knows;
}

// Threads of a warp run in step, but their memory is no further.
inline float __shfl_xor_sync(unsigned, float value, int distance) {
  emulation::self().exchanged = value;
  emulation::yield();
  const float other = emulation::block.fibers[threadIdx.x ^ static_cast<unsigned>(distance)].exchanged;
  emulation::yield();
  return other;
}

// Off by as much as the hardware's function may be (CUDA C++ Programming Guide, intrinsic functions), up or down.
inline float off_by(double error, double exact, float x) {
  return static_cast<float>(exact + (gan_regularizers::bit_cast<uint32_t>(x) % 2 ? error : -error));
}
inline float __log2f(float x) {
  const double exact = std::log2(static_cast<double>(x));
  return off_by(0x1p-22 * std::max(1.0, std::abs(exact)), exact, x);
}
inline void __sincosf(float x, float* sine, float* cosine) {
  *sine = off_by(std::exp2(-21.41), std::sin(static_cast<double>(x)), x);
  *cosine = off_by(std::exp2(-21.19), std::cos(static_cast<double>(x)), x);
}
inline uint32_t __umulhi(uint32_t x, uint32_t y) { return static_cast<uint32_t>(uint64_t{x} * y >> 32); }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline void __trap() { std::abort(); }
inline void __nanosleep(unsigned) {
  static thread_local int64_t turns = 0;
  if (++turns > 10'000'000) std::abort();  // a block waits for one that cannot begin
  std::this_thread::yield();
}
template <typename Words>
void __stcs(Words* address, Words words) {
  *address = words;
}

namespace emulation {

// A kernel with its arguments taken from where a launch points to them.
using Kernel = std::function<std::function<void()>(void** arguments)>;

struct Entry {
  Kernel kernel;
  unsigned most_threads;
};

// By the names under which a driver finds them.
inline std::map<std::string, Entry>& entries() {
  static std::map<std::string, Entry> all;
  return all;
}

template <typename... Arguments, size_t... i>
Kernel unpacking(void (*kernel)(Arguments...), std::index_sequence<i...>) {
  return [kernel](void** addresses) -> std::function<void()> {
    // Copied, as a launch does.
    return [kernel, arguments = std::tuple<Arguments...>(*static_cast<Arguments*>(addresses[i])...)] {
      std::apply(kernel, arguments);
    };
  };
}

template <typename... Arguments>
bool enter(const char* name, unsigned most_threads, void (*kernel)(Arguments...)) {
  return entries()
      .emplace(name, Entry{unpacking(kernel, std::index_sequence_for<Arguments...>()), most_threads})
      .second;
}

inline void launch(const std::function<void()>& kernel, int64_t blocks, unsigned threads) {
  // Blocks begin in any order that the device likes; here in one that is far from that of their indices.
  const int64_t stride = blocks / 2 | 1, running = std::min(blocks, last_blocks);
  const int64_t order = running == blocks && std::gcd(stride, blocks) == 1 ? stride : 1;
  std::atomic<int64_t> begun = 0;
  memory.forget();
  const auto run_blocks = [&] {
    block.kernel = kernel;
    blockDim.x = threads;
    for (int64_t turn; (turn = begun++) < running;) {
      blockIdx.x = static_cast<unsigned>((blocks - 1 - turn) * order % blocks);
      run_block(blockDim.x);
    }
  };
  std::vector<std::thread> workers;
  for (int64_t i = 1; i < std::min(running, running_blocks); ++i) workers.emplace_back(run_blocks);
  run_blocks();
  for (std::thread& worker : workers) worker.join();
}

}  // namespace emulation

#define GR_KERNEL(name, threads, blocks, arguments, call) \
  static void name##_on_a_cpu arguments {                 \
    using namespace gan_regularizers;                     \
    call;                                                 \
  }                                                       \
  static const bool name##_is_there = emulation::enter("gan_regularizers_" #name, threads, name##_on_a_cpu);
