// The arithmetic on one tile. This file is compiled once for every instruction set, named GR_INSTRUCTION_SET, so it
// holds no function that the linker could share between them: everything is in an unnamed namespace or always inlined.
//
// Loops go over vectors, or are plain and vectorised by the compiler. All instruction sets give the same bits:
// additions keep their order and no multiply-add is fused.

#include "kernels_cpu.h"

#include "channels_cpu_simd.h"
#include "input_transform.h"
#include "normals_cpu_simd.h"
#include "vectors_cpu_simd.h"

namespace gan_regularizers {
namespace {

struct Tile {
  int64_t row_begin, row_end, column_begin, column_end;
  int64_t columns() const { return column_end - column_begin; }
  int64_t size() const { return (row_end - row_begin) * columns(); }
};

GR_INLINE Tile tile_of(const Shape& shape, const Tiling& tiling, int64_t index) {
  const int64_t row = index / tiling.column_tiles * tiling.rows, column = index % tiling.column_tiles * tiling.columns;
  return {row, least(row + tiling.rows, shape.height), column, least(column + tiling.columns, shape.width)};
}

GR_INLINE bool has_source(const Window<int64_t>& window, int64_t row) {
  return row >= window.row_begin && row < window.row_end;
}

GR_INLINE bool crosses_box(const Window<int64_t>& window, int64_t row) {
  return row >= window.top && row < window.bottom && window.left < window.right_edge;
}

// Calls run(begin, end) for the columns of a tile that have a source, from left to right, in rows that have any.
template <typename Run>
GR_INLINE void for_each_run(const Window<int64_t>& window, const Tile& tile, bool in_box, const Run& run) {
  const int64_t begin = greatest(tile.column_begin, window.column_begin);
  const int64_t end = least(tile.column_end, window.column_end);
  const int64_t left_end = in_box ? least(end, window.left) : end;
  const int64_t right_begin = in_box ? greatest(begin, window.right_edge) : end;
  if (begin < left_end) run(begin, left_end);
  if (right_begin < end) run(right_begin, end);
}

// Where the channels of a sample lie.
template <typename T>
struct Planes {
  T* first;
  int64_t channel_step, pixel_step;
  GR_INLINE T* at(int64_t channel, int64_t pixel) const { return first + channel * channel_step + pixel * pixel_step; }
  GR_INLINE Planes from(int64_t pixel) const { return {at(0, pixel), channel_step, pixel_step}; }
};

template <typename T, typename Bytes>
GR_INLINE Planes<T> planes_of(const Shape& shape, Bytes* batch, int64_t sample) {
  const int64_t pixels = shape.height * shape.width;
  T* start = static_cast<T*>(batch) + sample * shape.channels * pixels;
  return shape.channels_last ? Planes<T>{start, 1, shape.channels} : Planes<T>{start, pixels, 1};
}

// Pixels to channels and back: [count, channels] in memory and [channels, step].
template <int64_t channels, typename T>
GR_INLINE void separate_pixels(const T* __restrict pixels, int64_t count, int64_t step, T* __restrict out) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < channels; ++c) out[c * step + i] = pixels[i * channels + c];
}

template <int64_t channels, typename T>
GR_INLINE void join_pixels(const T* __restrict in, int64_t step, int64_t count, T* __restrict pixels) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t c = 0; c < channels; ++c) pixels[i * channels + c] = in[c * step + i];
}

// A half as the number that it holds, which loops vectorise for.
GR_INLINE const uint16_t* plain(const Float16* halves) { return &halves->bits; }
GR_INLINE const uint16_t* plain(const BFloat16* halves) { return &halves->bits; }
GR_INLINE uint16_t* plain(Float16* halves) { return &halves->bits; }
GR_INLINE uint16_t* plain(BFloat16* halves) { return &halves->bits; }
template <typename T>
GR_INLINE T* plain(T* numbers) {
  return numbers;
}

// The same for any planes; compilers vectorise it for images.
template <typename T>
GR_INLINE void separate(const Planes<const T>& in, int64_t channels, int64_t count, int64_t step, T* out) {
  if (channels == 3 && in.pixel_step == 3) return separate_pixels<3>(plain(in.first), count, step, plain(out));
  if (channels == 4 && in.pixel_step == 4) return separate_pixels<4>(plain(in.first), count, step, plain(out));
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < count; ++i) out[c * step + i] = *in.at(c, i);
}

template <typename T>
GR_INLINE void join(const T* in, int64_t step, int64_t channels, int64_t count, const Planes<T>& out) {
  if (channels == 3 && out.pixel_step == 3) return join_pixels<3>(plain(in), step, count, plain(out.first));
  if (channels == 4 && out.pixel_step == 4) return join_pixels<4>(plain(in), step, count, plain(out.first));
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < count; ++i) *out.at(c, i) = in[c * step + i];
}

// Adds numbers in double precision to as many partial sums.
using Doubles = Vector<double, vector_bytes / sizeof(double)>;
GR_INLINE void add(Vector<float, lanes> values, Doubles* partial) {
#if defined(__AVX512F__)
  partial[0] += (Doubles)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)values));
  partial[1] += (Doubles)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)values, 1));
#elif defined(__AVX2__)
  partial[0] += (Doubles)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)values));
  partial[1] += (Doubles)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)values, 1));
#elif defined(__aarch64__)
  partial[0] += (Doubles)vcvt_f64_f32(vget_low_f32((float32x4_t)values));
  partial[1] += (Doubles)vcvt_high_f64_f32((float32x4_t)values);
#else
  partial[0] += Doubles{values[0], values[1]};
  partial[1] += Doubles{values[2], values[3]};
#endif
}
GR_INLINE void add(Doubles values, Doubles* partial) { *partial += values; }

// Which columns of a tile have a source, in rows that have any: null for all of them.
template <typename Mask>
GR_INLINE Mask* mask_of(const Window<int64_t>& window, const Tile& tile, bool in_box, Mask* mask) {
  bool all = false;
  for_each_run(window, tile, in_box, [&](int64_t begin, int64_t end) { all = end - begin == tile.columns(); });
  if (all) return nullptr;
  for (int64_t i = 0; i < tile.columns(); ++i) mask[i] = 0;
  for_each_run(window, tile, in_box, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) mask[i - tile.column_begin] = static_cast<Mask>(-1);
  });
  return mask;
}

template <typename T, typename Real>
double sum(const Pass& pass, const Tiling& tiling, int64_t sample, int64_t index, void* scratch) {
  // Pairs of halves are added in single precision, which loses less than they lack.
  constexpr bool pairs = sizeof(T) == 2;
  constexpr int64_t block = sum_block, partials = pairs ? block / 2 : block;
  constexpr int64_t hands = hands_of<T>;
  constexpr int n = vector_bytes / sizeof(Real), m = vector_bytes / sizeof(double);
  Doubles partial[partials / m] = {};
  const Shape& shape = pass.shape;
  const Tile tile = tile_of(shape, tiling, index);
  const int64_t channels = picture_channels(pass);
  const T* const batch = static_cast<const T*>(pass.input);
  const T* const batch_end = batch + shape.samples * shape.channels * shape.height * shape.width;
  Planes<const T> in = planes_of<const T>(shape, batch, sample);
  in.first = in.at(pass.picture.begin, 0);
  T* const staged = static_cast<T*>(scratch);  // [channels, columns and what makes them whole blocks]

  // Adds columns from a pixel on: those that the mask has, if there is one, and `runs` calls its argument with.
  const auto add_columns = [&](int64_t pixel, int64_t columns, const Bits<T>* mask, const auto& runs) {
    const int64_t padded = (columns + block - 1) / block * block;
    Planes<const T> next = in.from(pixel);
    if (next.pixel_step != 1 || padded != columns || next.first < batch || next.at(channels - 1, columns) > batch_end) {
      for (int64_t i = 0; i < channels * padded; ++i) staged[i] = T{};
      runs([&](int64_t begin, int64_t end) {
        separate(next.from(begin), channels, end - begin, padded, staged + begin);
      });
      next = {staged, padded, 1};
      mask = nullptr;
    }
    for (int64_t i = 0; i < padded; i += block)
      for (int64_t c = 0; c < channels; ++c) {
        const auto read = [&](int64_t at, Vector<Real, n>* values) GR_ALWAYS_INLINE {
          Vector<Bits<T>, n * hands> bits = load<n * hands>(next.at(c, i + at));
          if (mask) bits &= load<n * hands>(mask + i + at);
          deal<T, Real, n, hands>(bits, values);
        };
        for (int64_t l = 0; l < partials; l += n) {
          Vector<Real, n> values[2];
          read(l * hands, values);
          if constexpr (pairs) {
            if constexpr (hands == 1) read(l + partials, values + 1);
            values[0] += values[1];
          }
          add(values[0], partial + l / m);
        }
      }
  };
  if (pass.adjoint) {
    const Window<int64_t> window = window_of<int64_t>(pass, sample);
    Bits<T>* const masks = reinterpret_cast<Bits<T>*>(staged + channels * (tile.columns() + block));
    const Bits<T>* const beside_box = mask_of(window, tile, false, masks);
    const Bits<T>* const through_box = mask_of(window, tile, true, masks + tile.columns());
    for (int64_t row = tile.row_begin; row < tile.row_end; ++row) {
      if (!has_source(window, row)) continue;
      const bool in_box = crosses_box(window, row);
      add_columns((row - window.down) * shape.width + tile.column_begin - window.right, tile.columns(),
                  in_box ? through_box : beside_box, [&](const auto& run) {
                    for_each_run(window, tile, in_box, [&](int64_t begin, int64_t end) {
                      run(begin - tile.column_begin, end - tile.column_begin);
                    });
                  });
    }
  } else {
    const int64_t pixel = tile.row_begin * shape.width + tile.column_begin;
    const int64_t in_place = in.pixel_step == 1 ? tile.size() / block * block : 0, rest = tile.size() - in_place;
    if (in_place) add_columns(pixel, in_place, nullptr, [](const auto&) {});
    if (rest) add_columns(pixel + in_place, rest, nullptr, [&](const auto& run) { run(0, rest); });
  }
  double total = 0.0;
  for (int l = 0; l < partials; ++l) total += partial[l / m][l % m];
  return total;
}

// A tile of a sample, and where its pixels come from.
template <typename T>
struct Passage {
  Tile tile;
  Window<int64_t> window;
  int64_t channels, width;
  const T *batch, *batch_end;
  Planes<const T> in;
  void* scratch;
};

// Calls map(block, source, write), where source(channel) is the address of what comes to the block, and map calls
// write(channel, bits) for its vectors. What has no source becomes outside(channel), whatever map makes of what it
// finds there. All of a tile goes on to put(block, channel, pixel, bits), with the block's first pixel in the tile.
template <int64_t lanes, int64_t vectors, typename T, typename Outside, typename Map, typename Put>
GR_INLINE void map_tile(const Passage<T>& p, const Outside& outside, const Map& map, const Put& put) {
  using Out = decltype(outside(0));
  const int64_t columns = p.tile.columns();
  Bits<Out>* const masks = static_cast<Bits<Out>*>(p.scratch);  // [2, columns]
  T* const staged = reinterpret_cast<T*>(masks + 2 * columns);  // [channels, columns]
  const Bits<Out>* const beside_box = mask_of(p.window, p.tile, false, masks);
  const Bits<Out>* const through_box = mask_of(p.window, p.tile, true, masks + columns);
  for (int64_t row = p.tile.row_begin; row < p.tile.row_end; ++row) {
    const int64_t line = (row - p.tile.row_begin) * columns;
    if (!has_source(p.window, row)) {
      for (int64_t c = 0; c < p.channels; ++c)
        for_each_block<lanes, vectors>(columns, [=, &put](auto block, int64_t i) GR_ALWAYS_INLINE {
          using Block = decltype(block);
          Vectors<Block, Bits<Out>> bits{};
          for (auto& vector : bits) vector += bit_cast<Bits<Out>>(outside(c));
          put(block, c, line + i, bits);
        });
      continue;
    }
    const bool in_box = crosses_box(p.window, row);
    const Bits<Out>* const mask = in_box ? through_box : beside_box;
    Planes<const T> source = p.in.from((row - p.window.down) * p.width + p.tile.column_begin - p.window.right);
    // Columns without a source are read nevertheless, but not from beyond the batch.
    if (source.pixel_step != 1 || source.first < p.batch || source.at(p.channels - 1, columns) > p.batch_end) {
      for_each_run(p.window, p.tile, in_box, [&](int64_t begin, int64_t end) {
        const int64_t skipped = begin - p.tile.column_begin;
        separate(source.from(skipped), p.channels, end - begin, columns, staged + skipped);
      });
      source = {staged, columns, 1};
    }
    for_each_block<lanes, vectors>(columns, [=, &outside, &map, &put](auto block, int64_t i) GR_ALWAYS_INLINE {
      using Block = decltype(block);
      constexpr int64_t n = Block::lanes;
      const auto source_of = [=](int64_t channel) GR_ALWAYS_INLINE { return source.at(channel, i); };
      const auto write = [=, &outside, &put](int64_t channel, Vectors<Block, Bits<Out>>& bits) GR_ALWAYS_INLINE {
        if (mask)
          for (int64_t v = 0; v < Block::vectors; ++v) {
            const Vector<Bits<Out>, n> holds = load<n>(mask + i + v * n);
            bits[v] = (bits[v] & holds) | (bit_cast<Bits<Out>>(outside(channel)) & ~holds);
          }
        put(block, channel, line + i, bits);
      };
      map(block, source_of, write);
    });
  }
}

// A tile of a sample whose pixels are moved and nothing else. In memory a row is one run of elements for each channel,
// or one of whole pixels for all.
template <typename T>
void move(Passage<T> p, T outside, Planes<T> out) {
  if (p.in.pixel_step != 1) {
    const int64_t pixel = p.channels;
    for (int64_t* columns : {&p.tile.column_begin, &p.tile.column_end, &p.window.column_begin, &p.window.column_end,
                             &p.window.left, &p.window.right_edge, &p.window.right, &p.width})
      *columns *= pixel;
    p.channels = p.in.pixel_step = out.pixel_step = 1;
  }
  // A vector of 64 bytes that is not moved by whole lines of the cache is always read from two.
  constexpr int64_t bytes = vector_bytes < 32 ? vector_bytes : 32;
  map_tile<bytes / sizeof(T), 64 / bytes>(
      p, [=](int64_t) { return outside; },
      [&](auto block, const auto& source, const auto& write) GR_ALWAYS_INLINE {
        using Block = decltype(block);
        for (int64_t c = 0; c < p.channels; ++c) {
          Vectors<Block, Bits<T>> bits;
          for (int64_t v = 0; v < Block::vectors; ++v) bits[v] = load<Block::lanes>(source(c) + v * Block::lanes);
          write(c, bits);
        }
      },
      [=](auto block, int64_t c, int64_t pixel, auto& bits) GR_ALWAYS_INLINE {
        for (int64_t v = 0; v < block.vectors; ++v) store(bits[v], out.at(c, pixel + v * block.lanes));
      });
}

template <typename T, typename Real>
void apply(const Pass& pass, const Tiling& tiling, int64_t sample, int64_t index, double mu, void* scratch) {
  const Shape& shape = pass.shape;
  const Tile tile = tile_of(shape, tiling, index);
  const Coefficients<Real> k = coefficients_of(pass, sample, static_cast<Real>(mu));
  const int64_t channels = shape.channels, first = pass.picture.begin, last = pass.picture.end;
  const int64_t pixels = shape.height * shape.width, pixel = tile.row_begin * shape.width + tile.column_begin;
  const int64_t size = tile.size();
  // The channels of a whole sample follow on each other, as their normals do. Otherwise these come in whole blocks, of
  // which a channel may need a part at both ends: what lies before a channel is then behind the one before it, and what
  // lies behind it is written over by the next.
  const bool is_whole = size == pixels;
  const int64_t noise_step = is_whole ? size : noise_columns(size);
  Real* const noise = static_cast<Real*>(scratch) + cache_line / sizeof(Real);          // [C, noise_step]
  T* const joined = reinterpret_cast<T*>(noise + channels * noise_step + noise_slack);  // [C, size]
  const T* const batch = static_cast<const T*>(pass.input);
  const Planes<const T> in = planes_of<const T>(shape, pass.input, sample);
  const Planes<T> out = planes_of<T>(shape, pass.output, sample).from(pixel);
  const Passage<T> passage = {
      tile,  window_of<int64_t>(pass, sample),          channels, shape.width,
      batch, batch + shape.samples * channels * pixels, in,       joined + channels * size + channels * size % 2};
  if (k.scale == Real(1) && k.pixel_weight == Real(0) && k.constant == Real(0) && k.noise_std == Real(0)) {
    T outside;
    narrow(k.outside, outside);
    return move(passage, outside, out);
  }
  // Where pixels lie together, they are joined at the end.
  const Planes<T> rows = out.pixel_step == 1 ? out : Planes<T>{joined, size, 1};
  const bool mixes = mixes_channels(pass);
  const auto is_picture = [=](int64_t channel) { return channel >= first && channel < last; };
  const Real share = k.pixel_weight / static_cast<Real>(last - first);

  // With numbers of type Out between the transform and `put`.
  const auto transform = [&](auto number, const auto& put) GR_ALWAYS_INLINE {
    using Out = decltype(number);
    Out grey, beside;
    narrow(k.outside, grey);
    narrow(k.beside, beside);
    const auto outside = [=](int64_t channel) GR_ALWAYS_INLINE { return is_picture(channel) ? grey : beside; };
    // Normals lie in the order of the pixels, and so do values that they are added to.
    constexpr int64_t most_hands = std::is_same_v<T, Out> ? hands_of<T> : 1, whole = vector_bytes / sizeof(Real);
    const auto map = [&](auto block, const auto& source, const auto& write) GR_ALWAYS_INLINE {
      using Block = decltype(block);
      constexpr int64_t hands = Block::lanes > whole ? most_hands : 1, n = Block::lanes / hands;
      constexpr int64_t vectors = Block::vectors * hands;
      const auto read = [&](int64_t c, Vector<Real, n>* values) GR_ALWAYS_INLINE {
        for (int64_t v = 0; v < Block::vectors; ++v)
          deal<T, Real, n, hands>(load<Block::lanes>(source(c) + v * Block::lanes), values + v * hands);
      };
      Vector<Real, n> values[vectors], shared[vectors] = {};
      if (mixes)
        for (int64_t c = first; c < last; ++c) {
          read(c, values);
          for (int64_t v = 0; v < vectors; ++v) shared[v] += values[v];
        }
      for (auto& vector : shared) vector = share * vector + k.constant;
      for (int64_t c = 0; c < channels; ++c) {
        read(c, values);
        for (int64_t v = 0; v < vectors; ++v)
          if (is_picture(c)) values[v] = k.scale * values[v] + shared[v];
        Vectors<Block, Bits<Out>> bits;
#pragma GCC unroll 4  // else Clang leaves the loop as it is, and the values in memory
        for (int64_t v = 0; v < Block::vectors; ++v) bits[v] = collected<Out, Real, n, hands>(values + v * hands);
        write(c, bits);
      }
    };
    map_tile<whole * most_hands, vectors_at_once>(passage, outside, map, put);
  };

  if (k.noise_std == Real(0)) {
    transform(T{}, [=](auto block, int64_t c, int64_t i, auto& bits) GR_ALWAYS_INLINE {
      for (int64_t v = 0; v < block.vectors; ++v) store(bits[v], rows.at(c, i + v * block.lanes));
    });
  } else {
    const int64_t together = is_whole ? last - first : 1;  // channels
    for (int64_t c = first; c < last; c += together) {
      const uint64_t element = static_cast<uint64_t>(c * pixels + pixel);
      const int64_t skipped = static_cast<int64_t>(element % 4);
      const Ahead<T> ahead = out.pixel_step == 1 ? Ahead<T>{in.at(c, pixel), out.at(c, 0)}
                                                 : Ahead<T>{in.at(0, pixel) + c * size, out.first + c * size};
      normals(static_cast<uint64_t>(pass.parts.seed[sample]), element / 4, together * size + skipped,
              noise + c * noise_step - skipped, ahead);
    }
    transform(Real{}, [=](auto block, int64_t c, int64_t i, auto& bits) GR_ALWAYS_INLINE {
      constexpr int64_t n = decltype(block)::lanes;
      using Reals = Vector<Real, n>;
      for (int64_t v = 0; v < block.vectors; ++v) {
        Reals value = bit_cast<Reals>(bits[v]);
        if (is_picture(c)) value += k.noise_std * bit_cast<Reals>(load<n>(noise + c * noise_step + i + v * n));
        store(narrowed<T, Real, n>(value), rows.at(c, i + v * n));
      }
    });
  }
  if (out.pixel_step != 1) join(joined, size, channels, size, out);
}

template <typename Real>
std::array<double, 4> normal_block(uint64_t seed, uint64_t block) {
  Real out[8 * lanes];
  normals(seed, block, 4, out, Ahead<Real>{out, out});
  return {out[0], out[1], out[2], out[3]};
}

template <typename T, typename Real>
constexpr SimdKernels kernels_of() {
  return {sum<T, Real>, apply<T, Real>, diffuse_lines<T, Real>, normal_block<Real>};
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
