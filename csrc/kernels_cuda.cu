// The CUDA kernels, to be compiled when they are needed: nothing here is of the standard library or of CUDA's headers.
//
// A launch covers a batch with the same number of blocks for every sample, so that what belongs to a sample is read
// once per thread and is the same for a whole block. Contrast needs the mean of a sample first. A small sample has one
// block, which reads it twice. Of a large one some blocks sum slices, and those that apply the pass wait for them; as
// both follow each other closely, the second read should find the L2 cache. Sums are made in an order that depends on
// the pass and the shape of a sample, not on the batch.

#include "bits.h"
#include "draw.h"
#include "input_transform.h"
#include "philox.h"
#include "plan.h"

namespace gan_regularizers {

constexpr int warp_threads = 32;

using float32 = float;
using float16 = Float16;
using bfloat16 = BFloat16;

GR_INLINE float widen(float value) { return value; }
GR_INLINE void narrow(float value, float& out) { out = value; }

// Two elements of half precision from and to 32 bits, the first one in the lower half.
template <typename T>
__device__ __forceinline__ void unpack(uint32_t word, float (&values)[2]) {
  values[0] = widen(T{static_cast<uint16_t>(word)});
  values[1] = widen(T{static_cast<uint16_t>(word >> 16)});
}
template <typename T>
__device__ __forceinline__ uint32_t pack(float first, float second) {
  T low, high;
  narrow(first, low);
  narrow(second, high);
  return low.bits | static_cast<uint32_t>(high.bits) << 16;
}
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
template <>
__device__ __forceinline__ uint32_t pack<Float16>(float first, float second) {
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
template <>
__device__ __forceinline__ uint32_t pack<BFloat16>(float first, float second) {
  uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
}
#endif

// The unsigned integer of as many bytes.
template <int bytes>
struct Unsigned;
template <>
struct Unsigned<2> {
  using type = uint16_t;
};
template <>
struct Unsigned<4> {
  using type = uint32_t;
};
template <>
struct Unsigned<8> {
  using type = uint2;
};
template <>
struct Unsigned<16> {
  using type = uint4;
};

// `count` elements of type T as they lie in memory: 8 or 16 bytes.
template <typename T, int count>
struct Vector {
  static constexpr int size = count * sizeof(T) / 4, in_word = 4 / sizeof(T);
  using Bits = typename Unsigned<sizeof(T)>::type;
  using Raw = typename Unsigned<sizeof(T) * count>::type;
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

#if defined(__CUDACC__)
__device__ __forceinline__ unsigned atomicAdd(Exchanged<unsigned>* address, unsigned value) {
  return ::atomicAdd(const_cast<unsigned*>(address), value);
}
#endif

// Lets others run.
__device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 700
  __nanosleep(100);
#endif
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
      while (progress.done[work.sample] < plan.slices) wait();
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
__device__ __forceinline__ void apply_flat(const Pass& pass, const Plan& plan, const Divisors& by,
                                           const Progress& progress) {
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
__device__ __forceinline__ void apply(const Pass& pass, const Plan& plan, const Divisors& by,
                                      const Progress& progress) {
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

__device__ __forceinline__ void draw_columns(const Draw& draw) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= draw.samples) return;
  const int64_t step = draw.gain_table ? step_of(draw, n) : 0;
  if (draw.gain_table && (step < 0 || step >= draw.steps)) __trap();  // as torch's own index out of range
  draw_sample(draw, n, step);
}

// Blocks of most_threads that a multiprocessor must be able to run. Two leave 64 registers for a thread, which the code
// for older architectures, and for any number of channels, would have to spill.
GR_CONSTEXPR int blocks_of_apply(int channels, bool mixes) {
  return __CUDA_ARCH__ >= 900 || (__CUDA_ARCH__ >= 750 && !(mixes && channels == 0)) ? 2 : 1;
}

}  // namespace gan_regularizers

// A line of GR_FLAT, GR_APPLY or GR_DRAW makes one kernel; launch_cuda.cpp has the lines.
#if defined(__CUDACC__)
#define GR_KERNEL(name, threads, blocks, arguments, call)                                           \
  extern "C" __global__ void __launch_bounds__(threads, blocks) gan_regularizers_##name arguments { \
    using namespace gan_regularizers;                                                               \
    call;                                                                                           \
  }
#endif
#define GR_PASS_ARGUMENTS                                                                   \
  (gan_regularizers::Pass pass, gan_regularizers::Plan plan, gan_regularizers::Divisors by, \
   gan_regularizers::Progress progress)
#define GR_FLAT(name, type) \
  GR_KERNEL(name, gan_regularizers::most_threads, 1, GR_PASS_ARGUMENTS, apply_flat<type>(pass, plan, by, progress))
#define GR_APPLY(name, type, channels, mixes, channels_last)                                          \
  GR_KERNEL(name, gan_regularizers::most_threads, gan_regularizers::blocks_of_apply(channels, mixes), \
            GR_PASS_ARGUMENTS, (apply<type, channels, mixes, channels_last>(pass, plan, by, progress)))
#define GR_DRAW(name) \
  GR_KERNEL(name, gan_regularizers::block_threads, 1, (gan_regularizers::Draw draw), draw_columns(draw))
