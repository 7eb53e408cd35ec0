// The CUDA kernels and their entry points.
//
// A launch covers a batch with the same number of blocks for every sample, so that what belongs to a sample is read
// once per thread and is the same for a whole block. Sums are made in an order that depends on the shape alone.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "checks.h"
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

GR_INLINE float widen(float value) { return value; }
GR_INLINE float widen(__half value) { return __half2float(value); }
GR_INLINE float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
GR_INLINE void narrow(float value, float& out) { out = value; }
GR_INLINE void narrow(float value, __half& out) { out = __float2half_rn(value); }
GR_INLINE void narrow(float value, __nv_bfloat16& out) { out = __float2bfloat16_rn(value); }

// Moved in one access.
template <typename T, int count>
struct alignas(count * sizeof(T)) Vector {
  T values[count];
};

template <int count, typename T>
__device__ __forceinline__ bool aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % sizeof(Vector<T, count>) == 0;
}

template <int count, typename T>
__device__ __forceinline__ void load(const T* from, float (&to)[count]) {
  if (aligned<count>(from)) {
    const Vector<T, count> vector = *reinterpret_cast<const Vector<T, count>*>(from);
#pragma unroll
    for (int i = 0; i < count; ++i) to[i] = widen(vector.values[i]);
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) to[i] = widen(from[i]);
  }
}

template <int count, typename T>
__device__ __forceinline__ void store(const float (&from)[count], T* to) {
  if (aligned<count>(to)) {
    Vector<T, count> vector;
#pragma unroll
    for (int i = 0; i < count; ++i) narrow(from[i], vector.values[i]);
    *reinterpret_cast<Vector<T, count>*>(to) = vector;
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) narrow(from[i], to[i]);
  }
}

// The sum over a block, in every thread.
__device__ float block_sum(float value) {
  __shared__ float of_warp[most_threads / warp_threads];
  for (int distance = warp_threads / 2; distance; distance /= 2) value += __shfl_xor_sync(0xFFFFFFFFu, value, distance);
  if (threadIdx.x % warp_threads == 0) of_warp[threadIdx.x / warp_threads] = value;
  __syncthreads();
  float total = 0.0f;
  for (unsigned warp = 0; warp < blockDim.x / warp_threads; ++warp) total += of_warp[warp];
  __syncthreads();  // before of_warp is written again
  return total;
}

// A thread's share of the sum over elements [begin, end) of a sample, in the order of memory: of all that a forward
// pass reads, in the adjoint of the pixels that reach the output.
template <typename T>
__device__ float partial_sum(const Pass& pass, int64_t sample, int64_t begin, int64_t end) {
  const Shape& shape = pass.shape;
  const int64_t pixels = shape.height * shape.width, elements = shape.channels * pixels;
  const T* const in = static_cast<const T*>(pass.input) + sample * elements;
  const bool masked = pass.adjoint && (pass.parts.shift || pass.parts.cutout);
  const Window<int> window = window_of<int>(pass, sample);
  float total = 0.0f;
  for (int64_t i = begin + 4 * threadIdx.x; i < end; i += 4 * blockDim.x) {
    const int count = static_cast<int>(end - i < 4 ? end - i : 4);
    float values[4] = {};
    if (count == 4)
      load(in + i, values);
    else
      for (int k = 0; k < count; ++k) values[k] = widen(in[i + k]);
    if (masked) {
      // A masked sample has fewer than 2^31 elements.
      const unsigned index = static_cast<unsigned>(i), channels = static_cast<unsigned>(shape.channels);
      const unsigned pixel = shape.channels_last ? index / channels : index % static_cast<unsigned>(pixels);
      unsigned channel = shape.channels_last ? index % channels : 0;
      const int width = static_cast<int>(shape.width), height = static_cast<int>(shape.height);
      int row = static_cast<int>(pixel) / width, column = static_cast<int>(pixel) % width;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        if (!window.holds(row + window.down, column + window.right)) values[k] = 0.0f;
        if (shape.channels_last && ++channel < channels) continue;
        channel = 0;
        if (++column < width) continue;
        column = 0;
        if (++row == height) row = 0;
      }
    }
    total += (values[0] + values[1]) + (values[2] + values[3]);
  }
  return total;
}

template <typename T>
__global__ void __launch_bounds__(block_threads) sum_slices(Pass pass, int slices, float* sums) {
  const int64_t sample = blockIdx.x / slices, slice = blockIdx.x % slices;
  const int64_t elements = pass.shape.channels * pass.shape.height * pass.shape.width;
  const int64_t begin = slice * slice_elements;
  const int64_t end = begin + slice_elements < elements ? begin + slice_elements : elements;
  const float sum = block_sum(partial_sum<T>(pass, sample, begin, end));
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// The mean that the contrast is about: from the sums of a launch before, or from a sum of the block's own.
template <typename T>
__device__ float mean_of(const Pass& pass, int64_t sample, int slices, const float* sums) {
  if (!pass.parts.contrast) return 0.0f;
  const int64_t elements = pass.shape.channels * pass.shape.height * pass.shape.width;
  float share = 0.0f;
  if (sums)
    for (int slice = threadIdx.x; slice < slices; slice += blockDim.x) share += sums[sample * slices + slice];
  else
    share = partial_sum<T>(pass, sample, 0, elements);
  return block_sum(share) / static_cast<float>(elements);
}

// y = scale x + constant + noise_std eps on samples as flat arrays: neither a window nor a mixing of channels.
template <typename T>
__global__ void __launch_bounds__(most_threads) apply_flat(Pass pass, int blocks, int slices, const float* sums) {
  constexpr int count = 16 / sizeof(T);
  const int64_t sample = blockIdx.x / blocks, block = blockIdx.x % blocks;
  const int64_t elements = pass.shape.channels * pass.shape.height * pass.shape.width;
  const T* const in = static_cast<const T*>(pass.input) + sample * elements;
  T* const out = static_cast<T*>(pass.output) + sample * elements;
  const Coefficients<float> k = coefficients_of(pass, sample, mean_of<T>(pass, sample, slices, sums));
  const uint64_t seed = pass.parts.seed ? static_cast<uint64_t>(pass.parts.seed[sample]) : 0;

  const int64_t step = static_cast<int64_t>(blocks) * blockDim.x * count;
  for (int64_t i = (block * blockDim.x + threadIdx.x) * count; i < elements; i += step) {
    const bool whole = i + count <= elements;
    float values[count] = {};
    if (whole)
      load(in + i, values);
    else
      for (int j = 0; i + j < elements; ++j) values[j] = widen(in[i + j]);
#pragma unroll
    for (int j = 0; j < count; ++j) values[j] = k.scale * values[j] + k.constant;
    if (k.noise_std != 0.0f) {
#pragma unroll
      for (int j = 0; j < count; j += 4) {
        float normals[4];
        normal_block(seed, static_cast<uint64_t>(i + j) / 4, normals);
#pragma unroll
        for (int l = 0; l < 4; ++l) values[j + l] += k.noise_std * normals[l];
      }
    }
    if (whole)
      store(values, out + i);
    else
      for (int j = 0; i + j < elements; ++j) narrow(values[j], out[i + j]);
  }
}

// The normals of the four elements from `first` on, which need not begin a block.
__device__ __forceinline__ void four_normals(uint64_t seed, uint64_t first, float (&normals)[4]) {
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
  bool run;  // all four are held and read neighbours

  __device__ __forceinline__ FourPixels(const Window<int>& window, const Shape& shape, int quad) {
    const int width = static_cast<int>(shape.width);
    const int pixels = static_cast<int>(shape.height) * width;
    first = 4 * quad;
    count = pixels - first < 4 ? pixels - first : 4;
    int row = first / width, column = first % width;
    run = column + 4 <= width;
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

// One thread works on four pixels at a time: on one channel of them, or, where saturation mixes the channels, on
// `channels` of them in registers, or (channels = 0) on any number, which it reads twice.
template <typename T, int channels, bool mixes, bool channels_last>
__global__ void __launch_bounds__(most_threads, 2) apply(Pass pass, int blocks, int slices, const float* sums) {
  const Shape& shape = pass.shape;
  const int64_t sample = blockIdx.x / blocks, block = blockIdx.x % blocks;
  const int64_t pixels = shape.height * shape.width;
  const T* const in = static_cast<const T*>(pass.input) + sample * shape.channels * pixels;
  T* const out = static_cast<T*>(pass.output) + sample * shape.channels * pixels;
  const int64_t channel_step = channels_last ? 1 : pixels, pixel_step = channels_last ? shape.channels : 1;
  const Window<int> window = window_of<int>(pass, sample);
  const Coefficients<float> k = coefficients_of(pass, sample, mean_of<T>(pass, sample, slices, sums));
  const float share = k.pixel_weight / static_cast<float>(shape.channels);
  const float outside = pass.adjoint ? k.constant : 0.0f;
  const uint64_t seed = pass.parts.seed ? static_cast<uint64_t>(pass.parts.seed[sample]) : 0;

  const auto read = [&](const FourPixels& at, int64_t channel, float (&values)[4]) {
    if (!channels_last && at.run) {
      load(in + channel * channel_step + at.source[0], values);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        values[i] = at.held[i] ? widen(in[channel * channel_step + at.source[i] * pixel_step]) : 0.0f;
    }
  };
  // From inputs and the mean over the channels to outputs.
  const auto transform = [&](const FourPixels& at, int64_t channel, const float (&mixed)[4], float (&values)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) values[i] = at.held[i] ? k.scale * values[i] + (mixed[i] + k.constant) : outside;
    if (k.noise_std != 0.0f) {
      float normals[4];
      four_normals(seed, static_cast<uint64_t>(channel * pixels + at.first), normals);
#pragma unroll
      for (int i = 0; i < 4; ++i) values[i] += k.noise_std * normals[i];
    }
  };
  const auto write = [&](const FourPixels& at, int64_t channel, const float (&values)[4]) {
    T* const to = out + channel * channel_step + at.first * pixel_step;
    if (!channels_last && at.count == 4)
      store(values, to);
    else
      for (int i = 0; i < 4; ++i)
        if (i < at.count) narrow(values[i], to[i * pixel_step]);
  };

  const int quads = static_cast<int>((pixels + 3) / 4), all_channels = static_cast<int>(shape.channels);
  const int64_t items = static_cast<int64_t>(quads) * (mixes ? 1 : all_channels);
  const int64_t step = static_cast<int64_t>(blocks) * blockDim.x;
  for (int64_t wide = block * blockDim.x + threadIdx.x; wide < items; wide += step) {
    const int item = static_cast<int>(wide);
    if constexpr (!mixes) {
      // Neighbouring threads take neighbours in memory.
      const int channel = channels_last ? item % all_channels : item / quads;
      const FourPixels at(window, shape, channels_last ? item / all_channels : item % quads);
      const float nothing[4] = {};
      float values[4];
      read(at, channel, values);
      transform(at, channel, nothing, values);
      write(at, channel, values);
    } else if constexpr (channels > 0) {
      const FourPixels at(window, shape, item);
      float values[channels][4], mixed[4] = {};
      if (channels_last && at.run) {
        float memory[channels * 4];
#pragma unroll
        for (int part = 0; part < channels; ++part) {
          float four[4];
          load(in + at.source[0] * channels + 4 * part, four);
#pragma unroll
          for (int i = 0; i < 4; ++i) memory[4 * part + i] = four[i];
        }
#pragma unroll
        for (int c = 0; c < channels; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) values[c][i] = memory[i * channels + c];
      } else {
#pragma unroll
        for (int c = 0; c < channels; ++c) read(at, c, values[c]);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int c = 0; c < channels; ++c) mixed[i] += values[c][i];
        mixed[i] *= share;
      }
#pragma unroll
      for (int c = 0; c < channels; ++c) transform(at, c, mixed, values[c]);
      if (channels_last && at.count == 4) {
        float memory[channels * 4];
#pragma unroll
        for (int c = 0; c < channels; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) memory[i * channels + c] = values[c][i];
#pragma unroll
        for (int part = 0; part < channels; ++part) {
          const float four[4] = {memory[4 * part], memory[4 * part + 1], memory[4 * part + 2], memory[4 * part + 3]};
          store(four, out + static_cast<int64_t>(at.first) * channels + 4 * part);
        }
      } else {
#pragma unroll
        for (int c = 0; c < channels; ++c) write(at, c, values[c]);
      }
    } else {
      const FourPixels at(window, shape, item);
      float values[4], mixed[4] = {};
      for (int64_t c = 0; c < shape.channels; ++c) {
        read(at, c, values);
#pragma unroll
        for (int i = 0; i < 4; ++i) mixed[i] += values[i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) mixed[i] *= share;
      for (int64_t c = 0; c < shape.channels; ++c) {
        read(at, c, values);
        transform(at, c, mixed, values);
        write(at, c, values);
      }
    }
  }
}

__global__ void __launch_bounds__(block_threads) draw_columns(Draw draw) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= draw.samples) return;
  for (int row = 0; row < draw.real_rows; ++row) {
    const int64_t at = row * draw.samples + n;
    // Not fused: the same bits as on the CPU.
    draw.reals[at] = __fadd_rn(__fmul_rn(draw.scale[row], uniform_of(draw.words[at])), draw.low[row]);
  }
  for (int column = 0; column < draw.integer_columns; ++column) {
    const float uniform = uniform_of(draw.words[draw.source[column] * draw.samples + n]);
    draw.integers[n * draw.integer_columns + column] =
        static_cast<int64_t>(static_cast<float>(draw.count[column]) * uniform) + draw.offset[column];
  }
}

__global__ void __launch_bounds__(block_threads) look_up_steps(LookUp look_up) {
  const int64_t n = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= look_up.samples) return;
  const int64_t t = look_up.given ? look_up.given[n] : look_up.t_list[look_up.words[n] & (look_up.length - 1)];
  if (t < 0 || t >= look_up.steps) __trap();  // as torch's own index out of range
  look_up.t[n] = t;
  look_up.gain[n] = look_up.gain_table[t];
  look_up.noise_std[n] = look_up.noise_table[t];
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
  if (blocks > INT32_MAX) refuse("the batch needs more blocks than a launch has; split it");
  kernel<<<static_cast<unsigned>(blocks), threads, 0, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check_cuda(cudaGetLastError());
}
#endif

// How a pass is cut into blocks; it depends on the pass alone.
struct Plan {
  bool flat;       // no window, no mixing, and noise in the order of memory
  int threads;     // of a block
  int64_t blocks;  // of a sample
  int64_t slices;  // of a sample that a launch before sums; 0 where none is needed
};

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

Plan plan_of(const Pass& pass) {
  const Shape& shape = pass.shape;
  const int64_t pixels = shape.height * shape.width, elements = shape.channels * pixels;
  const bool planar_noise = pass.parts.noise_std && shape.channels_last && shape.channels > 1;
  Plan plan;
  plan.flat = !pass.parts.shift && !pass.parts.cutout && !mixes_channels(pass) && !planar_noise;
  const bool own_block = pass.parts.contrast && elements * bytes_of(pass.dtype) <= own_block_bytes;
  const int64_t items = mixes_channels(pass) ? ceil_div(pixels, 4) : ceil_div(elements, 4);
  plan.threads = own_block && items > block_threads ? most_threads : block_threads;
  plan.blocks = own_block ? 1 : ceil_div(items, 4 * plan.threads);
  plan.slices = pass.parts.contrast && !own_block ? ceil_div(elements, slice_elements) : 0;
  return plan;
}

template <typename T>
void run(const Pass& pass, float* workspace, void* stream) {
  const Plan plan = plan_of(pass);
  const int64_t samples = pass.shape.samples;
  const int blocks = static_cast<int>(plan.blocks), slices = static_cast<int>(plan.slices);
  const float* const sums = slices ? workspace : nullptr;
  if (slices) launch(sum_slices<T>, samples * slices, block_threads, stream, pass, slices, workspace);
  const bool last = pass.shape.channels_last && pass.shape.channels > 1;
  auto kernel = apply_flat<T>;
  if (!plan.flat && !mixes_channels(pass))
    kernel = last ? apply<T, 0, false, true> : apply<T, 0, false, false>;
  else if (!plan.flat && pass.shape.channels == 3)
    kernel = last ? apply<T, 3, true, true> : apply<T, 3, true, false>;
  else if (!plan.flat)
    kernel = last ? apply<T, 0, true, true> : apply<T, 0, true, false>;
  launch(kernel, samples * plan.blocks, plan.threads, stream, pass, blocks, slices, sums);
}

}  // namespace

int64_t workspace_cuda(const Pass& pass) {
  return checked_elements(pass) ? pass.shape.samples * plan_of(pass).slices : 0;
}

void transform_cuda(const Pass& pass, float* workspace, int device, void* stream) {
  if (checked_elements(pass) == 0) return;
  if (!plan_of(pass).flat && checked_elements(pass) / pass.shape.samples > INT32_MAX)
    refuse("a sample has more than 2^31 - 1 elements; only noise, gain, brightness and contrast take that");
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

void look_up_cuda(const LookUp& look_up, int device, void* stream) {
  check(look_up);
  if (look_up.samples == 0) return;
  const OnDevice on_device(device);
  launch(look_up_steps, ceil_div(look_up.samples, block_threads), block_threads, stream, look_up);
}

}  // namespace gan_regularizers
