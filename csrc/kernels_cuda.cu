// The CUDA kernels and their entry points.
//
// A launch covers a batch with the same number of blocks for every sample, so that what belongs to a sample is read
// once per thread and is the same for a whole block. Contrast needs the mean of a sample first. A small sample has one
// block, which reads it twice. Of a large one some blocks sum slices, and those that apply the pass wait for them; as
// both follow each other closely, the second read should find the L2 cache. Sums are made in an order that depends on
// the pass and the shape of a sample, not on the batch.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "bits.h"
#include "checks.h"
#include "draw.h"
#include "input_transform.h"
#include "kernels.h"
#include "philox.h"

namespace gan_regularizers {
namespace {

constexpr int block_threads = 256;
constexpr int most_threads = 512;  // of a block that has a sample for itself
constexpr int warp_threads = 32;
constexpr int64_t own_block_bytes = 1 << 16;  // a sample of this size is read twice by one block, then from its cache
constexpr int64_t slice_elements = 1 << 14;   // of a sample, that one block sums
constexpr int64_t most_turns = 4;             // of a thread
#if !defined(GR_RUNNING_BLOCKS)
#define GR_RUNNING_BLOCKS 512  // that a large device runs at once, about
#endif

GR_INLINE float widen(float value) { return value; }
GR_INLINE float widen(__half value) { return __half2float(value); }
GR_INLINE float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
GR_INLINE void narrow(float value, float& out) { out = value; }
GR_INLINE void narrow(float value, __half& out) { out = __float2half_rn(value); }
GR_INLINE void narrow(float value, __nv_bfloat16& out) { out = __float2bfloat16_rn(value); }

// Two elements of half precision from and to 32 bits, the first one in the lower half.
template <typename T>
__device__ __forceinline__ void unpack(uint32_t word, float (&values)[2]) {
  if constexpr (std::is_same_v<T, __half>) {
    const float2 pair = __half22float2(*reinterpret_cast<const __half2*>(&word));
    values[0] = pair.x;
    values[1] = pair.y;
  } else {
    values[0] = bit_cast<float>(word << 16);
    values[1] = bit_cast<float>(word & 0xFFFF0000u);
  }
}
template <typename T>
__device__ __forceinline__ uint32_t pack(float first, float second) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const uint32_t*>(&pair);
  }
}

// `count` elements of type T as they lie in memory: 8 or 16 bytes.
template <typename T, int count>
struct Vector {
  static constexpr int size = count * sizeof(T) / 4, in_word = 4 / sizeof(T);
  using Bits = std::conditional_t<in_word == 1, uint32_t, uint16_t>;
  using Raw = std::conditional_t<size == 4, uint4, uint2>;
  uint32_t words[size];

  // In one access where they are all there, `left` of them are, and the address allows it.
  static __device__ __forceinline__ Vector load(const T* from, int64_t left = count) {
    Vector vector{};
    if (left >= count && reinterpret_cast<uintptr_t>(from) % sizeof(Raw) == 0) {
      const Raw raw = *reinterpret_cast<const Raw*>(from);
      vector.words[0] = raw.x;
      vector.words[1] = raw.y;
      if constexpr (size == 4) {
        vector.words[2] = raw.z;
        vector.words[3] = raw.w;
      }
    } else {
#pragma unroll
      for (int i = 0; i < count; ++i)
        if (i < left)
          vector.words[i / in_word] |= uint32_t{reinterpret_cast<const Bits*>(from)[i]} << (16 * (i % in_word));
    }
    return vector;
  }

  __device__ __forceinline__ void store(T* to, int64_t left = count) const {
    if (left >= count && reinterpret_cast<uintptr_t>(to) % sizeof(Raw) == 0) {
      Raw raw;
      raw.x = words[0];
      raw.y = words[1];
      if constexpr (size == 4) {
        raw.z = words[2];
        raw.w = words[3];
      }
      // Streaming, so that inputs stay in the L2 cache. A plain store has been seen to be split by the compiler.
      __stcs(reinterpret_cast<Raw*>(to), raw);
    } else {
#pragma unroll
      for (int i = 0; i < count; ++i)
        if (i < left) reinterpret_cast<Bits*>(to)[i] = static_cast<Bits>(words[i / in_word] >> (16 * (i % in_word)));
    }
  }

  __device__ __forceinline__ void unpacked(float (&values)[count]) const {
#pragma unroll
    for (int i = 0; i < size; ++i) {
      if constexpr (in_word == 1) {
        values[i] = bit_cast<float>(words[i]);
      } else {
        float pair[2];
        unpack<T>(words[i], pair);
        values[2 * i] = pair[0];
        values[2 * i + 1] = pair[1];
      }
    }
  }

  static __device__ __forceinline__ Vector packed(const float (&values)[count]) {
    Vector vector;
#pragma unroll
    for (int i = 0; i < size; ++i) {
      if constexpr (in_word == 1)
        vector.words[i] = bit_cast<uint32_t>(values[i]);
      else
        vector.words[i] = pack<T>(values[2 * i], values[2 * i + 1]);
    }
    return vector;
  }
};

// Divides numbers in [0, 2^31) by one that the host knows: by a multiplication (Granlund and Montgomery, PLDI 1994).
class Divider {
 public:
  constexpr explicit Divider(int64_t divisor) : divisor_(static_cast<int>(divisor)) {
    while (int64_t{1} << shift_ < divisor) ++shift_;
    factor_ = static_cast<uint32_t>(((int64_t{1} << (31 + shift_)) + divisor - 1) / divisor);
  }
  GR_INLINE constexpr int quotient(int number) const {
    return static_cast<int>((uint64_t{2u * static_cast<unsigned>(number)} * factor_ >> 32) >> shift_);
  }
  GR_INLINE constexpr int rest(int number) const { return number - quotient(number) * divisor_; }

 private:
  int divisor_;
  uint32_t factor_ = 0;
  int shift_ = 0;
};

constexpr bool divides(int divisor) {
  const Divider divider(divisor);
  for (int n :
       {0, 1, divisor - 1, divisor, INT32_MAX / divisor * divisor - 1, INT32_MAX / divisor * divisor, INT32_MAX})
    if (divider.quotient(n) != n / divisor || divider.rest(n) != n % divisor) return false;
  return true;
}
static_assert(divides(1) && divides(2) && divides(3) && divides(7) && divides(641) && divides(65535) &&
              divides(65537) && divides((1 << 30) - 1) && divides((1 << 30) + 1) && divides(INT32_MAX));

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int distance = warp_threads / 2; distance; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
  return value;
}

// The sum over a block, in every thread.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float of_warp[most_threads / warp_threads];
  const unsigned lane = threadIdx.x % warp_threads, warp = threadIdx.x / warp_threads;
  value = warp_sum(value);
  if (lane == 0) of_warp[warp] = value;
  __syncthreads();
  return warp_sum(lane < blockDim.x / warp_threads ? of_warp[lane] : 0.0f);
}

// How a pass is cut into blocks; it depends on the pass alone.
struct Plan {
  bool flat;       // no window, no mixing, all channels picture, and noise in the order of memory
  int threads;     // of a block
  int64_t slices;  // of a sample, summed by a block each; 0 where there is nothing to sum or one block does all
  int64_t blocks;  // of a sample, that apply the pass
  int64_t lead;    // a sample's slices are summed so many samples before the pass is applied to it
};

// What the device divides by.
struct Divisors {
  Divider turns;                           // of a sample: slices and blocks
  Divider channels, pixels, width, quads;  // where there is a window or a mixing
};

#if defined(__CUDACC__)
// What blocks that run at the same time write and read. Volatile, since a multiprocessor's own cache may hold the line
// from before. Fences say when others see it.
template <typename T>
using Exchanged = volatile T;

__device__ __forceinline__ unsigned atomicAdd(Exchanged<unsigned>* address, unsigned value) {
  return ::atomicAdd(const_cast<unsigned*>(address), value);
}
#endif

// What blocks tell each other about slices.
struct Progress {
  Exchanged<float>* sums;      // [samples, slices]
  Exchanged<unsigned>* begun;  // blocks
  Exchanged<unsigned>* done;   // [samples]: slices; these counters are zero before the launch
};

// Where the elements of the picture lie together in memory, only they are summed; else those of other channels count as
// zeros.
GR_INLINE bool picture_lies_together(const Pass& pass) {
  return !pass.shape.channels_last || picture_channels(pass) == pass.shape.channels;
}

// The elements that the mean of a sample runs over.
GR_INLINE int64_t summed_elements(const Pass& pass) {
  const int64_t channels = picture_lies_together(pass) ? picture_channels(pass) : pass.shape.channels;
  return channels * pass.shape.height * pass.shape.width;
}

// A thread's share of the sum over the summed elements [begin, end) of a sample, in the order of memory: of all that a
// forward pass reads, in the adjoint of the pixels that reach the output.
template <bool windowed, typename T>
__device__ float partial_sum(const Pass& pass, const Divisors& by, int64_t sample, int64_t begin, int64_t end) {
  constexpr int count = 16 / sizeof(T);
  const Shape& shape = pass.shape;
  const bool picked = windowed && !picture_lies_together(pass), masked = windowed && (pass.adjoint || picked);
  const int64_t before = windowed && !picked ? pass.picture.begin : 0;
  const T* const in =
      static_cast<const T*>(pass.input) + (sample * shape.channels + before) * shape.height * shape.width;
  const Window<int> window = pass.adjoint ? window_of<int>(pass, sample) : whole_frame<int>(shape);
  const int width = static_cast<int>(shape.width), height = static_cast<int>(shape.height);
  const int channels = static_cast<int>(shape.channels);
  float total = 0.0f;
  for (int64_t i = begin + count * threadIdx.x; i < end; i += count * blockDim.x) {
    float values[count];
    Vector<T, count>::load(in + i, end - i).unpacked(values);
    if (masked) {
      const int index = static_cast<int>(i);
      const int pixel = shape.channels_last ? by.channels.quotient(index) : by.pixels.rest(index);
      int channel = shape.channels_last ? by.channels.rest(index) : 0;
      int row = by.width.quotient(pixel), column = by.width.rest(pixel);
#pragma unroll
      for (int k = 0; k < count; ++k) {
        if (!window.holds(row + window.down, column + window.right) || (picked && !is_picture(pass, channel)))
          values[k] = 0.0f;
        if (shape.channels_last && ++channel < channels) continue;
        channel = 0;
        if (++column < width) continue;
        column = 0;
        if (++row == height) row = 0;
      }
    }
#pragma unroll
    for (int distance = 1; distance < count; distance *= 2)
#pragma unroll
      for (int k = 0; k < count; k += 2 * distance) values[k] += values[k + distance];
    total += values[0];
  }
  return total;
}

// What a block applies the pass to.
struct Work {
  int64_t sample;
  int64_t block;  // of the sample
  float mean;     // that the contrast is about
};

// Finds a block's work; false where it has nothing to apply, but may have summed.
//
// With slices, a round sums those of one sample and applies the pass to the one that was summed `lead` rounds before.
// Blocks take turns in the order in which they begin, whatever their index: those that wait do so for blocks that run.
template <bool windowed, typename T>
__device__ bool find_work(const Pass& pass, const Plan& plan, const Divisors& by, const Progress& progress,
                          Work& work) {
  const int64_t elements = summed_elements(pass);
  __shared__ int shared_turn;
  int turn = static_cast<int>(blockIdx.x);
  if (plan.slices) {
    if (threadIdx.x == 0) shared_turn = static_cast<int>(atomicAdd(progress.begun, 1u));
    __syncthreads();
    turn = shared_turn;
  }
  work.sample = by.turns.quotient(turn);
  work.block = by.turns.rest(turn) - plan.slices;
  work.mean = 0.0f;
  if (!pass.parts.contrast) return true;

  const bool sums = work.block < 0;
  if (!sums) work.sample -= plan.lead;
  if (work.sample < 0 || work.sample >= pass.shape.samples) return false;
  float sum = 0.0f;
  if (sums || !plan.slices) {
    const int64_t begin = sums ? (work.block + plan.slices) * slice_elements : 0;
    const int64_t end = sums && begin + slice_elements < elements ? begin + slice_elements : elements;
    sum = partial_sum<windowed, T>(pass, by, work.sample, begin, end);
  } else {
    if (threadIdx.x == 0) {
      while (progress.done[work.sample] < plan.slices) __nanosleep(100);
      __threadfence();  // the sums are read after the word of them
    }
    __syncthreads();
    for (int64_t slice = threadIdx.x; slice < plan.slices; slice += blockDim.x)
      sum += progress.sums[work.sample * plan.slices + slice];
  }
  sum = block_sum(sum);
  if (sums && threadIdx.x == 0) {
    progress.sums[work.sample * plan.slices + work.block + plan.slices] = sum;
    __threadfence();  // the sum is there before the word of it
    atomicAdd(progress.done + work.sample, 1u);
  }
  work.mean = sum / static_cast<float>(picture_channels(pass) * pass.shape.height * pass.shape.width);
  return !sums;
}

// y = scale x + constant + noise_std eps on samples as flat arrays: no window, no mixing of channels, and all of them
// are picture.
template <typename T>
__global__ void __launch_bounds__(most_threads) apply_flat(Pass pass, Plan plan, Divisors by, Progress progress) {
  constexpr int count = 16 / sizeof(T);
  Work work;
  if (!find_work<false, T>(pass, plan, by, progress, work)) return;
  const int64_t elements = pass.shape.channels * pass.shape.height * pass.shape.width;
  const T* const in = static_cast<const T*>(pass.input) + work.sample * elements;
  T* const out = static_cast<T*>(pass.output) + work.sample * elements;
  const Coefficients<float> k = coefficients_of(pass, work.sample, work.mean);
  const uint64_t seed = pass.parts.seed ? static_cast<uint64_t>(pass.parts.seed[work.sample]) : 0;

  const int64_t step = plan.blocks * blockDim.x * count;
  for (int64_t i = (work.block * blockDim.x + threadIdx.x) * count; i < elements; i += step) {
    const auto vector = Vector<T, count>::load(in + i, elements - i);
    // While the load is under way:
    float noise[count] = {};
    if (k.noise_std != 0.0f) {
#pragma unroll
      for (int j = 0; j < count; j += 4) {
        float normals[4];
        normal_block(seed, static_cast<uint64_t>(i + j) / 4, normals);
#pragma unroll
        for (int l = 0; l < 4; ++l) noise[j + l] = normals[l];
      }
    }
    float values[count];
    vector.unpacked(values);
#pragma unroll
    for (int j = 0; j < count; ++j) values[j] = k.scale * values[j] + k.constant + k.noise_std * noise[j];
    Vector<T, count>::packed(values).store(out + i, elements - i);
  }
}

// The normals of the four elements from `first` on, which need not begin a block.
__device__ __forceinline__ void four_normals(uint64_t seed, unsigned first, float (&normals)[4]) {
  normal_block(seed, first / 4, normals);
  const unsigned skipped = first % 4;
  if (skipped == 0) return;
  float next[4];
  normal_block(seed, first / 4 + 1, next);
  const float window[8] = {normals[0], normals[1], normals[2], normals[3], next[0], next[1], next[2], next[3]};
#pragma unroll
  for (int k = 0; k < 4; ++k) normals[k] = skipped == 1 ? window[k + 1] : skipped == 2 ? window[k + 2] : window[k + 3];
}

// Four neighbouring target pixels and where they read.
struct FourPixels {
  int first;  // target pixel
  int count;  // fewer than four at the end of a sample
  int source[4];
  bool held[4];
  bool run;  // all four are held, so that they read neighbours, over the end of a row too

  __device__ __forceinline__ FourPixels(const Window<int>& window, const Shape& shape, const Divider& by_width,
                                        int quad) {
    const int width = static_cast<int>(shape.width);
    const int pixels = static_cast<int>(shape.height) * width;
    first = 4 * quad;
    count = pixels - first < 4 ? pixels - first : 4;
    int row = by_width.quotient(first), column = by_width.rest(first);
    run = true;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      held[k] = k < count && window.holds(row, column);
      source[k] = held[k] ? (row - window.down) * width + column - window.right : 0;
      run = run && held[k];
      if (++column == width) {
        column = 0;
        ++row;
      }
    }
  }
};

// One thread works on four pixels at a time: on one channel of them, or, where saturation mixes the channels, on the
// picture's channels, of which there are `channels`, in registers, or (channels = 0) any number, which it reads twice.
// A sample has fewer than 2^31 elements here. The channels of samples in channels_last are all picture where they are
// in registers.
template <typename T, int channels, bool mixes, bool channels_last>
__global__ void __launch_bounds__(most_threads, 2) apply(Pass pass, Plan plan, Divisors by, Progress progress) {
  Work work;
  if (!find_work<true, T>(pass, plan, by, progress, work)) return;
  const Shape& shape = pass.shape;
  const int all_channels = static_cast<int>(shape.channels), pixels = static_cast<int>(shape.height * shape.width);
  const T* const in = static_cast<const T*>(pass.input) + work.sample * all_channels * pixels;
  T* const out = static_cast<T*>(pass.output) + work.sample * all_channels * pixels;
  const int channel_step = channels_last ? 1 : pixels, pixel_step = channels_last ? all_channels : 1;
  const Window<int> window = window_of<int>(pass, work.sample);
  const Coefficients<float> k = coefficients_of(pass, work.sample, work.mean);
  const float share = k.pixel_weight / static_cast<float>(picture_channels(pass));
  const uint64_t seed = pass.parts.seed ? static_cast<uint64_t>(pass.parts.seed[work.sample]) : 0;

  const auto read = [&](const FourPixels& at, int channel, float (&values)[4]) {
    if (!channels_last && at.run) {
      Vector<T, 4>::load(in + channel * channel_step + at.source[0]).unpacked(values);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        values[i] = at.held[i] ? widen(in[channel * channel_step + at.source[i] * pixel_step]) : 0.0f;
    }
  };
  // From inputs and the mean over the channels to outputs.
  const auto transform = [&](const FourPixels& at, int channel, const float (&mixed)[4], float (&values)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = at.held[i] ? k.scale * values[i] + (mixed[i] + k.constant) : k.outside;
    if (k.noise_std != 0.0f) {
      float normals[4];
      four_normals(seed, static_cast<unsigned>(channel * pixels + at.first), normals);
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] += k.noise_std * normals[i];
    }
  };
  const auto write = [&](const FourPixels& at, int channel, const float (&values)[4]) {
    T* const to = out + channel * channel_step + at.first * pixel_step;
    if constexpr (!channels_last) {
      Vector<T, 4>::packed(values).store(to, at.count);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (i < at.count) narrow(values[i], to[i * pixel_step]);
    }
  };

  // A channel that is no picture.
  const auto keep = [&](const FourPixels& at, int channel) {
    float values[4];
    read(at, channel, values);
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (!at.held[i]) values[i] = k.beside;
    write(at, channel, values);
  };
  const auto keep_others = [&](const FourPixels& at) {
    for (int c = 0; c < pass.picture.begin; ++c) keep(at, c);
    for (int c = static_cast<int>(pass.picture.end); c < all_channels; ++c) keep(at, c);
  };

  const unsigned quads = (static_cast<unsigned>(pixels) + 3) / 4, items = quads * (mixes ? 1 : all_channels);
  const unsigned step = static_cast<unsigned>(plan.blocks) * blockDim.x;
  for (unsigned i = static_cast<unsigned>(work.block) * blockDim.x + threadIdx.x; i < items; i += step) {
    const int item = static_cast<int>(i);
    if constexpr (!mixes) {
      // Neighbouring threads take neighbours in memory.
      const int channel = channels_last ? by.channels.rest(item) : by.quads.quotient(item);
      const FourPixels at(window, shape, by.width, channels_last ? by.channels.quotient(item) : by.quads.rest(item));
      if (!is_picture(pass, channel)) {
        keep(at, channel);
        continue;
      }
      const float nothing[4] = {};
      float values[4];
      read(at, channel, values);
      transform(at, channel, nothing, values);
      write(at, channel, values);
    } else if constexpr (channels > 0) {
      const FourPixels at(window, shape, by.width, item);
      if constexpr (!channels_last) keep_others(at);
      const int first_channel = channels_last ? 0 : static_cast<int>(pass.picture.begin);
      float values[channels][4], mixed[4] = {};
      if (channels_last && at.run) {
        float memory[channels * 4];
#pragma unroll
        for (int part = 0; part < channels; ++part) {
          float four[4];
          Vector<T, 4>::load(in + at.source[0] * channels + 4 * part).unpacked(four);
#pragma unroll
          for (int i = 0; i < 4; ++i) memory[4 * part + i] = four[i];
        }
#pragma unroll
        for (int c = 0; c < channels; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) values[c][i] = memory[i * channels + c];
      } else {
#pragma unroll
        for (int c = 0; c < channels; ++c) read(at, first_channel + c, values[c]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < channels; ++c) mixed[i] += values[c][i];
        mixed[i] *= share;
      }
#pragma unroll
      for (int c = 0; c < channels; ++c) transform(at, first_channel + c, mixed, values[c]);
      if (channels_last && at.count == 4) {
        float memory[channels * 4];
#pragma unroll
        for (int c = 0; c < channels; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) memory[i * channels + c] = values[c][i];
#pragma unroll
        for (int part = 0; part < channels; ++part) {
          const float four[4] = {memory[4 * part], memory[4 * part + 1], memory[4 * part + 2], memory[4 * part + 3]};
          Vector<T, 4>::packed(four).store(out + at.first * channels + 4 * part);
        }
      } else {
#pragma unroll
        for (int c = 0; c < channels; ++c) write(at, first_channel + c, values[c]);
      }
    } else {
      const FourPixels at(window, shape, by.width, item);
      float values[4], mixed[4] = {};
      const int picture_begin = static_cast<int>(pass.picture.begin), picture_end = static_cast<int>(pass.picture.end);
      for (int c = picture_begin; c < picture_end; ++c) {
        read(at, c, values);
#pragma unroll
        for (int i = 0; i < 4; ++i) mixed[i] += values[i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) mixed[i] *= share;
      for (int c = picture_begin; c < picture_end; ++c) {
        read(at, c, values);
        transform(at, c, mixed, values);
        write(at, c, values);
      }
      keep_others(at);
    }
  }
}

__global__ void __launch_bounds__(block_threads) draw_columns(Draw draw) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= draw.samples) return;
  const int64_t step = draw.gain_table ? step_of(draw, n) : 0;
  if (draw.gain_table && (step < 0 || step >= draw.steps)) __trap();  // as torch's own index out of range
  draw_sample(draw, n, step);
}

void check_cuda(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(status));
}

class OnDevice {
 public:
  explicit OnDevice(int device) {
    check_cuda(cudaGetDevice(&before_));
    check_cuda(cudaSetDevice(device));
  }
  ~OnDevice() { cudaSetDevice(before_); }

 private:
  int before_;
};

#if defined(__CUDACC__)
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int threads, void* stream, Arguments... arguments) {
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check_cuda(cudaGetLastError());
}
#endif

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Plan plan_of(const Pass& pass) {
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
  const int64_t turns = std::clamp<int64_t>(shape.samples * most_blocks / (2 * GR_RUNNING_BLOCKS), 1, most_turns);
  plan.blocks = own_block ? 1 : ceil_div(most_blocks, turns);
  plan.slices = pass.parts.contrast && !own_block ? ceil_div(summed_elements(pass), slice_elements) : 0;
  plan.lead = plan.slices ? std::min(ceil_div(GR_RUNNING_BLOCKS, plan.slices + plan.blocks), shape.samples) : 0;
  return plan;
}

int64_t counters_of(const Pass& pass, const Plan& plan) { return plan.slices ? 1 + pass.shape.samples : 0; }

template <typename T>
void run(const Pass& pass, float* workspace, void* stream) {
  const Shape& shape = pass.shape;
  const Plan plan = plan_of(pass);
  const int64_t turns = plan.slices + plan.blocks, rounds = shape.samples + plan.lead;
  if (turns > INT32_MAX / rounds) refuse("the batch needs more blocks than a launch has; split it");
  const int64_t pixels = plan.flat ? 1 : shape.height * shape.width;
  const Divisors by{Divider(turns), Divider(plan.flat ? 1 : shape.channels), Divider(pixels),
                    Divider(plan.flat ? 1 : shape.width), Divider(ceil_div(pixels, 4))};
  const int64_t count = counters_of(pass, plan);
  if (count) check_cuda(cudaMemsetAsync(workspace, 0, count * sizeof(unsigned), static_cast<cudaStream_t>(stream)));
  const auto exchanged = reinterpret_cast<Exchanged<unsigned>*>(workspace);
  const Progress progress{reinterpret_cast<Exchanged<float>*>(workspace + count), exchanged, exchanged + 1};
  const bool last = shape.channels_last && shape.channels > 1;
  auto kernel = apply_flat<T>;
  if (!plan.flat && !mixes_channels(pass))
    kernel = last ? apply<T, 0, false, true> : apply<T, 0, false, false>;
  else if (!plan.flat && picture_channels(pass) == 3 && (!last || shape.channels == 3))
    kernel = last ? apply<T, 3, true, true> : apply<T, 3, true, false>;
  else if (!plan.flat)
    kernel = last ? apply<T, 0, true, true> : apply<T, 0, true, false>;
  launch(kernel, rounds * turns, plan.threads, stream, pass, plan, by, progress);
}

}  // namespace

int64_t workspace_cuda(const Pass& pass) {
  if (checked_elements(pass) == 0) return 0;
  const Plan plan = plan_of(pass);
  return counters_of(pass, plan) + pass.shape.samples * plan.slices;
}

void transform_cuda(const Pass& pass, float* workspace, int device, void* stream) {
  if (checked_elements(pass) == 0) return;
  // Offsets within a sample are 32 bits wide there, and a box is moved by as much as a side.
  const Shape& shape = pass.shape;
  if (!plan_of(pass).flat &&
      (shape.channels * shape.height * shape.width > INT32_MAX || std::max(shape.height, shape.width) > INT32_MAX / 2))
    refuse(
        "a sample has more than 2^31 - 1 elements, or a side more than 2^30 - 1 pixels; only noise, gain, "
        "brightness and contrast of all channels take that");
  if (!workspace && workspace_cuda(pass)) refuse("workspace is a null pointer");
  const OnDevice on_device(device);
  switch (pass.dtype) {
    case Dtype::float16: return run<__half>(pass, workspace, stream);
    case Dtype::bfloat16: return run<__nv_bfloat16>(pass, workspace, stream);
    case Dtype::float32: return run<float>(pass, workspace, stream);
    default: refuse("the CUDA kernels take no float64");
  }
}

void draw_cuda(const Draw& draw, int device, void* stream) {
  check(draw);
  if (draw.samples == 0) return;
  const OnDevice on_device(device);
  launch(draw_columns, ceil_div(draw.samples, block_threads), block_threads, stream, draw);
}

}  // namespace gan_regularizers
