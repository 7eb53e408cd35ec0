// The arithmetic on one tile. This file is compiled once for every instruction set, named GR_INSTRUCTION_SET, so it
// holds no function that the linker could share between them: everything is in an unnamed namespace or always inlined.
//
// Loops are plain and vectorised by the compiler. All instruction sets give the same bits: additions keep their order
// and no multiply-add is fused.

#include "kernels_cpu.h"

#include "bits.h"
#include "input_transform.h"
#include "philox.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace gan_regularizers {
namespace {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif
constexpr int lanes = vector_bytes / 4;
typedef uint64_t Words __attribute__((vector_size(vector_bytes)));

GR_INLINE void multiply_words(Words words, uint32_t factor, Words& high, Words& low) {
  const Words factors = Words{} + factor;
#if defined(__AVX512F__)
  low = (Words)_mm512_mul_epu32((__m512i)words, (__m512i)factors);
#elif defined(__AVX2__)
  low = (Words)_mm256_mul_epu32((__m256i)words, (__m256i)factors);
#elif defined(__SSE2__)
  low = (Words)_mm_mul_epu32((__m128i)words, (__m128i)factors);
#else
  low = (words & 0xFFFFFFFFu) * factors;
#endif
  high = low >> 32;
}

// The words of `lanes` blocks from `block` on: words[k][l] is word k of block + l.
GR_INLINE void philox_words(uint64_t seed, uint64_t block, uint32_t (&words)[4][lanes]) {
  Words half[2][4];  // of the even and of the odd blocks
  for (int odd = 0; odd < 2; ++odd) {
    Words index;
    for (int l = 0; l < lanes / 2; ++l) index[l] = block + 2 * l + odd;
    half[odd][0] = index;
    half[odd][1] = index >> 32;
    half[odd][2] = half[odd][3] = Words{};
    philox_4x32<Words, multiply_words>(half[odd], static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  }
  for (int k = 0; k < 4; ++k) {
    const Words merged = (half[0][k] & 0xFFFFFFFFu) | (half[1][k] << 32);
    __builtin_memcpy(words[k], &merged, sizeof merged);
  }
}

// Normals of whole blocks, at least `count` of them.
template <typename Real>
void normals(uint64_t seed, uint64_t block, int64_t count, Real* out) {
  for (int64_t done = 0; done < count; done += 4 * lanes, block += lanes) {
    uint32_t words[4][lanes];
    Real values[4][lanes];
    philox_words(seed, block, words);
    for (int pair = 0; pair < 4; pair += 2)
      for (int l = 0; l < lanes; ++l)
        box_muller(words[pair][l], words[pair + 1][l], values[pair][l], values[pair + 1][l]);
    for (int l = 0; l < lanes; ++l)
      for (int k = 0; k < 4; ++k) out[done + 4 * l + k] = values[k][l];
  }
}

GR_INLINE float widen(float value) { return value; }
GR_INLINE double widen(double value) { return value; }
GR_INLINE void narrow(float value, float& out) { out = value; }
GR_INLINE void narrow(double value, double& out) { out = value; }

// A number that the compiler knows.
template <int64_t value>
struct Constant {
  GR_INLINE operator int64_t() const { return value; }
};

// Calls work(step), with the steps of most images as constants, which loops over them vectorise for.
template <typename Work>
GR_INLINE void with_step(int64_t step, const Work& work) {
  switch (step) {
    case 1: return work(Constant<1>{});
    case 3: return work(Constant<3>{});
    case 4: return work(Constant<4>{});
    default: return work(step);
  }
}

// One channel of a run of pixels.
template <typename T, typename Real>
GR_INLINE void load(const T* in, int64_t pixel_step, int64_t count, Real* out) {
  with_step(pixel_step, [=](auto step) {
    for (int64_t i = 0; i < count; ++i) out[i] = widen(in[i * step]);
  });
}

template <typename T, typename Real>
GR_INLINE void store(const Real* in, int64_t pixel_step, int64_t count, T* out) {
  with_step(pixel_step, [=](auto step) {
    for (int64_t i = 0; i < count; ++i) narrow(in[i], out[i * step]);
  });
}

struct Tile {
  int64_t row_begin, row_end, column_begin, column_end;
  int64_t columns() const { return column_end - column_begin; }
  int64_t size() const { return (row_end - row_begin) * columns(); }
};

GR_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
GR_INLINE int64_t greatest(int64_t a, int64_t b) { return a < b ? b : a; }

GR_INLINE Tile tile_of(const Shape& shape, const Tiling& tiling, int64_t index) {
  const int64_t row = index / tiling.column_tiles * tiling.rows, column = index % tiling.column_tiles * tiling.columns;
  return {row, least(row + tiling.rows, shape.height), column, least(column + tiling.columns, shape.width)};
}

// Calls run(row, begin, end) for the columns of a tile's row that the window holds, from left to right.
template <typename Run>
GR_INLINE void for_each_run(const Window<int64_t>& window, const Tile& tile, int64_t row, Run run) {
  if (row < window.row_begin || row >= window.row_end) return;
  const int64_t begin = greatest(tile.column_begin, window.column_begin);
  const int64_t end = least(tile.column_end, window.column_end);
  if (row < window.top || row >= window.bottom || window.left >= window.right_edge) {
    if (begin < end) run(begin, end);
    return;
  }
  const int64_t left_end = least(end, window.left), right_begin = greatest(begin, window.right_edge);
  if (begin < left_end) run(begin, left_end);
  if (right_begin < end) run(right_begin, end);
}

// Where the channels of a sample lie.
template <typename T>
struct Planes {
  T* sample;
  int64_t channel_step, pixel_step;
  GR_INLINE T* at(int64_t channel, int64_t pixel) const { return sample + channel * channel_step + pixel * pixel_step; }
};

template <typename T, typename Bytes>
GR_INLINE Planes<T> planes_of(const Shape& shape, Bytes* batch, int64_t sample) {
  const int64_t pixels = shape.height * shape.width;
  T* start = static_cast<T*>(batch) + sample * shape.channels * pixels;
  return shape.channels_last ? Planes<T>{start, 1, shape.channels} : Planes<T>{start, pixels, 1};
}

template <typename T, typename Real>
double sum(const Pass& pass, const Tiling& tiling, int64_t sample, int64_t index, void* scratch) {
  constexpr int partials = 16;
  double partial[partials] = {};
  Real* const row_buffer = static_cast<Real*>(scratch);
  const int64_t first = pass.picture.begin, last = pass.picture.end;
  const Tile tile = tile_of(pass.shape, tiling, index);
  const Window<int64_t> window = pass.adjoint ? window_of<int64_t>(pass, sample) : whole_frame<int64_t>(pass.shape);
  const Planes<const T> in = planes_of<const T>(pass.shape, pass.input, sample);
  for (int64_t row = tile.row_begin; row < tile.row_end; ++row)
    for_each_run(window, tile, row, [&](int64_t begin, int64_t end) {
      const int64_t count = end - begin;
      const int64_t source = (row - window.down) * pass.shape.width + begin - window.right;
      for (int64_t c = first; c < last; ++c) {
        load(in.at(c, source), in.pixel_step, count, row_buffer);
        int64_t i = 0;
        for (; i + partials <= count; i += partials)
          for (int l = 0; l < partials; ++l) partial[l] += row_buffer[i + l];
        for (int l = 0; i < count; ++i, ++l) partial[l] += row_buffer[i];
      }
    });
  double total = 0.0;
  for (double value : partial) total += value;
  return total;
}

// A tile of a sample whose pixels are moved and nothing else. In memory a row is one run of elements for each channel,
// or one of whole pixels for all.
template <typename T>
void move(const Shape& shape, const Tile& tile, const Window<int64_t>& window, const T* in, T* out, T outside) {
  const int64_t planes = shape.channels_last ? 1 : shape.channels;
  const int64_t pixel = shape.channels_last ? shape.channels : 1, row_step = shape.width * pixel;
  for (int64_t plane = 0; plane < planes; ++plane, in += shape.height * row_step, out += shape.height * row_step)
    for (int64_t row = tile.row_begin; row < tile.row_end; ++row) {
      T* const line = out + row * row_step;
      int64_t done = tile.column_begin;
      const auto fill_up_to = [&](int64_t column) {
        for (int64_t i = done * pixel; i < column * pixel; ++i) line[i] = outside;
      };
      for_each_run(window, tile, row, [&](int64_t begin, int64_t end) {
        fill_up_to(begin);
        const T* const source = in + (row - window.down) * row_step + (begin - window.right) * pixel;
        __builtin_memcpy(line + begin * pixel, source, static_cast<size_t>((end - begin) * pixel) * sizeof(T));
        done = end;
      });
      fill_up_to(tile.column_end);
    }
}

template <typename T, typename Real>
void apply(const Pass& pass, const Tiling& tiling, int64_t sample, int64_t index, double mu, void* scratch) {
  const Shape& shape = pass.shape;
  const Tile tile = tile_of(shape, tiling, index);
  const Window<int64_t> window = window_of<int64_t>(pass, sample);
  const Coefficients<Real> k = coefficients_of(pass, sample, static_cast<Real>(mu));
  const Planes<const T> in = planes_of<const T>(shape, pass.input, sample);
  const Planes<T> out = planes_of<T>(shape, pass.output, sample);
  if (k.scale == Real(1) && k.pixel_weight == Real(0) && k.constant == Real(0) && k.noise_std == Real(0)) {
    T outside;
    narrow(k.outside, outside);
    return move(shape, tile, window, in.sample, out.sample, outside);
  }
  const bool mixes = mixes_channels(pass);
  const int64_t first = pass.picture.begin, last = pass.picture.end;
  const auto is_picture = [=](int64_t channel) { return channel >= first && channel < last; };
  const int64_t size = tile.size();
  Real* const values = static_cast<Real*>(scratch);  // [C, size]
  Real* const shared = values + shape.channels * size;

  if (pass.parts.shift || pass.parts.cutout)  // else every pixel has a source
    for (int64_t c = 0; c < shape.channels; ++c) {
      const Real value = is_picture(c) ? k.outside : k.beside;
      for (int64_t i = 0; i < size; ++i) values[c * size + i] = value;
    }
  for (int64_t row = tile.row_begin; row < tile.row_end; ++row) {
    Real* const row_values = values + (row - tile.row_begin) * tile.columns() - tile.column_begin;
    for_each_run(window, tile, row, [&](int64_t begin, int64_t end) {
      const int64_t count = end - begin;
      const int64_t source = (row - window.down) * shape.width + begin - window.right;
      for (int64_t c = 0; c < shape.channels; ++c)
        load(in.at(c, source), in.pixel_step, count, row_values + c * size + begin);
      for (int64_t i = 0; i < count; ++i) shared[i] = Real(0);
      if (mixes)
        for (int64_t c = first; c < last; ++c)
          for (int64_t i = 0; i < count; ++i) shared[i] += row_values[c * size + begin + i];
      const Real share = k.pixel_weight / static_cast<Real>(last - first);
      for (int64_t i = 0; i < count; ++i) shared[i] = share * shared[i] + k.constant;
      for (int64_t c = first; c < last; ++c) {
        Real* const run = row_values + c * size + begin;
        for (int64_t i = 0; i < count; ++i) run[i] = k.scale * run[i] + shared[i];
      }
    });
  }

  for (int64_t c = 0; c < shape.channels; ++c) {
    Real* const channel = values + c * size;
    const int64_t pixel = tile.row_begin * shape.width + tile.column_begin;
    if (k.noise_std != Real(0) && is_picture(c)) {
      const uint64_t element = static_cast<uint64_t>(c * shape.height * shape.width + pixel);
      const int64_t skipped = static_cast<int64_t>(element % 4);
      normals(static_cast<uint64_t>(pass.parts.seed[sample]), element / 4, size + skipped, shared);
      for (int64_t i = 0; i < size; ++i) channel[i] += k.noise_std * shared[i + skipped];
    }
    store(channel, out.pixel_step, size, out.at(c, pixel));
  }
}

template <typename Real>
std::array<double, 4> normal_block(uint64_t seed, uint64_t block) {
  Real out[4 * lanes];
  normals(seed, block, 4, out);
  return {out[0], out[1], out[2], out[3]};
}

template <typename T, typename Real>
constexpr SimdKernels kernels_of() {
  return {sum<T, Real>, apply<T, Real>, normal_block<Real>};
}

}  // namespace

namespace GR_INSTRUCTION_SET {

SimdKernels kernels(Dtype dtype) {
  switch (dtype) {
    case Dtype::float16: return kernels_of<Float16, float>();
    case Dtype::bfloat16: return kernels_of<BFloat16, float>();
    case Dtype::float64: return kernels_of<double, double>();
    default: return kernels_of<float, float>();
  }
}

}  // namespace GR_INSTRUCTION_SET
}  // namespace gan_regularizers
