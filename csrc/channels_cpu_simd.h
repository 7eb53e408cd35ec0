// A pass with a gain, a noise_std and a seed for every channel: a part of kernels_cpu_simd.cpp, and as that is compiled
// once for every instruction set.
//
// An element's normal is that of its pixel under the seed of its channel, wherever it lies. Seeds are what vectors are
// made of, where channels lie together or have so few pixels that a vector would not be full of one channel's blocks.
#pragma once

#include "normals_cpu_simd.h"
#include "pass.h"
#include "vectors_cpu_simd.h"

namespace gan_regularizers {
namespace {

// The values of channels from one on.
template <typename Real>
struct Levels {
  const Real* gain;
  const Real* noise_std;
  const int64_t* seed;
  Real centre;

  GR_INLINE Levels from(int64_t channel) const {
    return {gain ? gain + channel : nullptr, noise_std ? noise_std + channel : nullptr, seed ? seed + channel : nullptr,
            centre};
  }
};

template <typename Real>
Levels<Real> levels_of(const Pass& pass) {
  const Parts& parts = pass.parts;
  const auto values = [](const void* part) { return static_cast<const Real*>(part); };
  if (pass.adjoint) return {values(parts.gain), nullptr, nullptr, Real(0)};
  return {values(parts.gain), values(parts.noise_std), parts.seed, static_cast<Real>(pass.picture.centre)};
}

// One channel's values.
template <typename Real>
struct Level {
  Real gain, noise_std, constant;
  GR_INLINE Level(const Levels<Real>& levels, int64_t channel)
      : gain(levels.gain ? levels.gain[channel] : Real(1)),
        noise_std(levels.noise_std ? levels.noise_std[channel] : Real(0)),
        constant((Real(1) - gain) * levels.centre) {}
  GR_INLINE bool is_clean() const { return gain == Real(1) && noise_std == Real(0); }
};

// n elements by values of one channel, or of one each. Where the mask is set they keep their bits.
template <typename Real, int64_t n, typename T, typename Value>
GR_INLINE void diffuse(const Value& gain, const Value& noise_std, const Value& constant,
                       const Vector<Bits<T>, n>& clean, const Vector<Real, n>& normals, const T* in, T* out) {
  const Vector<Bits<T>, n> given = load<n>(in);
  const Vector<Real, n> diffused = gain * widened<T, Real, n>(given) + constant + noise_std * normals;
  store((given & clean) | (narrowed<T, Real, n>(diffused) & ~clean), out);
}

// Elements of one channel that lie together, with their normals.
template <typename T, typename Real>
GR_INLINE void diffuse_row(const Level<Real>& level, int64_t count, const Real* normals, const T* in, T* out) {
  const Bits<T> clean = level.is_clean() ? static_cast<Bits<T>>(-1) : Bits<T>{};
  for_each_block<vector_bytes / sizeof(Real), 1>(count, [=](auto block, int64_t i) GR_ALWAYS_INLINE {
    constexpr int64_t n = decltype(block)::lanes;
    const Vector<Bits<T>, n> mask = Vector<Bits<T>, n>{} + clean;
    const Vector<Real, n> noise = bit_cast<Vector<Real, n>>(load<n>(normals + i));
    diffuse<Real, n>(level.gain, level.noise_std, level.constant, mask, noise, in + i, out + i);
  });
}

// Pixels of one channel, from a whole block on, that lie together.
template <typename T, typename Real>
void diffuse_long_row(const Level<Real>& level, int64_t seed, int64_t first_pixel, int64_t count, const T* in, T* out) {
  if (level.is_clean()) {
    __builtin_memcpy(out, in, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  constexpr int64_t most = 1024;
  Real noise[most + 8 * lanes] = {};  // normals come in whole vectors
  for (int64_t done = 0; done < count; done += most) {
    const int64_t end = least(count - done, most);
    if (level.noise_std != Real(0))
      normals(static_cast<uint64_t>(seed), static_cast<uint64_t>((first_pixel + done) / 4), end, noise,
              Ahead<T>{in + done, out + done});
    diffuse_row(level, end, noise, in + done, out + done);
  }
}

constexpr int64_t most_blocks = 128;  // of several channels in one buffer

// Channels of few pixels, each of which lie together. Vectors hold blocks of several of them. Nothing branches on what
// is clean, which nobody can foretell.
template <typename T, typename Real>
void diffuse_short_rows(Levels<Real> levels, int64_t rows, int64_t pixels, const T* in, T* out) {
  const int64_t blocks = (pixels + 3) / 4, most_rows = most_blocks / blocks;
  int64_t seeds[2 * most_blocks], indices[2 * most_blocks];
  uint32_t radius_words[2 * most_blocks], angle_words[2 * most_blocks];
  Real noise[8 * most_blocks] = {};
  for (int64_t n; rows > 0; rows -= n, levels = levels.from(n)) {
    n = least(rows, most_rows);
    if (levels.noise_std) {
      int64_t count = 0;
      for (int64_t row = 0; row < n; ++row) {
        for (int64_t block = 0; block < blocks; ++block) {
          seeds[count + block] = levels.seed[row];
          indices[count + block] = block;
        }
        count += levels.noise_std[row] != Real(0) ? blocks : 0;
      }
      for (; count % lanes; ++count) seeds[count] = indices[count] = 0;
      for (int64_t i = 0; i < count; i += lanes)
        philox_pairs(seeds + i, indices + i, radius_words + 2 * i, angle_words + 2 * i);
      normals_of_pairs(radius_words, angle_words, 2 * count, noise);
    }
    const Real* normal = noise;
    for (int64_t row = 0; row < n; ++row, in += pixels, out += pixels) {
      const Level<Real> level(levels, row);
      diffuse_row(level, pixels, normal, in, out);
      normal += level.noise_std != Real(0) ? 4 * blocks : 0;
    }
  }
}

constexpr int64_t most_channels = 256;  // that lie together, at once: buffers for more fill a first-level cache

// The numbers at `slots`, of those from `from` on. The first slot is 0, and each is the one before it or the next.
template <int64_t n, typename Real>
GR_INLINE Vector<Real, n> spread(const Real* from, Vector<int32_t, n> slots) {
  if (slots[n - 1] == n - 1) return bit_cast<Vector<Real, n>>(load<n>(from));
  Vector<Real, n> out;
  for (int l = 0; l < n; ++l) out[l] = from[slots[l]];
  return out;
}
#if defined(__AVX512F__)
template <>
GR_INLINE Vector<float, 16> spread<16>(const float* from, Vector<int32_t, 16> slots) {
  return (Vector<float, 16>)_mm512_permutexvar_ps((__m512i)slots, _mm512_loadu_ps(from));
}
#elif defined(__AVX2__)
template <>
GR_INLINE Vector<float, 8> spread<8>(const float* from, Vector<int32_t, 8> slots) {
  return (Vector<float, 8>)_mm256_permutevar8x32_ps(_mm256_loadu_ps(from), (__m256i)slots);
}
#endif

// The values of channels that lie together. Normals are made for those with noise alone: `place` is where one has its
// own among them.
template <typename T, typename Real>
struct Together {
  Real gain[most_channels], noise_std[most_channels], constant[most_channels];
  Bits<T> clean[most_channels];
  int32_t place[most_channels];
};

// Channels [c, c + n) of some pixels. normals_of(pixel) are those of its channels with noise.
template <int64_t n, typename T, typename Real, typename Normals>
GR_INLINE void diffuse_channels(const Together<T, Real>& all, int64_t c, int64_t pixels, int64_t step,
                                const Normals& normals_of, const T* in, T* out) {
  const auto values = [c](const Real* of_all)
                          GR_ALWAYS_INLINE { return bit_cast<Vector<Real, n>>(load<n>(of_all + c)); };
  const Vector<Real, n> gain = values(all.gain), noise_std = values(all.noise_std), constant = values(all.constant);
  const Vector<Bits<T>, n> clean = load<n>(all.clean + c);
  const int32_t place = all.place[c];
  const Vector<int32_t, n> slots = bit_cast<Vector<int32_t, n>>(load<n>(all.place + c)) - place;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const Vector<Real, n> noise = spread<n>(normals_of(pixel) + place, slots);
    diffuse<Real, n>(gain, noise_std, constant, clean, noise, in + pixel * step + c, out + pixel * step + c);
  }
}

// Pixels, from a whole block on, of at most `most_channels` channels that lie together. Normals of channels with noise,
// blocks of which follow on each other without a gap, are spread over all. Where there is but one block, making those
// of all channels takes no longer.
template <typename T, typename Real>
void diffuse_pixels(const Levels<Real>& levels, int64_t channels, int64_t first_pixel, int64_t last_pixel, int64_t step,
                    const T* in, T* out) {
  const bool spreads = last_pixel - first_pixel > 4;
  Together<T, Real> all;
  int64_t seeds[most_channels + lanes], indices[most_channels + lanes], noisy = 0;
  for (int64_t c = 0; c < channels; ++c) {
    const Level<Real> level(levels, c);
    all.gain[c] = level.gain;
    all.noise_std[c] = level.noise_std;
    all.constant[c] = level.constant;
    all.clean[c] = level.is_clean() ? static_cast<Bits<T>>(-1) : Bits<T>{};
    all.place[c] = static_cast<int32_t>(c);
  }
  if (levels.noise_std && !spreads) {
    __builtin_memcpy(seeds, levels.seed, static_cast<size_t>(channels) * sizeof *seeds);
    noisy = channels;
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      all.place[c] = static_cast<int32_t>(noisy);
      if (!levels.noise_std) continue;
      seeds[noisy] = levels.seed[c];
      noisy += all.noise_std[c] != Real(0);
    }
  }

  // Of as many blocks as the buffers hold.
  const int64_t all_blocks = (last_pixel - first_pixel + 3) / 4;
  const int64_t together = noisy > 0 ? least(most_channels / noisy, all_blocks) : all_blocks;
  for (int64_t block = 0; block < together; ++block) {
    int64_t* const of_block = seeds + block * noisy;
    if (block > 0) __builtin_memcpy(of_block, seeds, static_cast<size_t>(noisy) * sizeof *seeds);
    for (int64_t j = 0; j < noisy; ++j) indices[block * noisy + j] = first_pixel / 4 + block;
  }
  for (int l = 0; l < lanes; ++l) seeds[together * noisy + l] = indices[together * noisy + l] = 0;
  uint32_t words[4][most_channels];
  Real made[4][most_channels + lanes];
  for (int64_t pixel = first_pixel; pixel < last_pixel; pixel += 4 * together) {
    const int64_t end = least(pixel + 4 * together, last_pixel), count = (end - pixel + 3) / 4 * noisy;
    Ahead<T> ahead = {in + pixel * step, out + pixel * step};
    for (int64_t j = 0; j < count; j += lanes) {
      philox_words(seeds + j, indices + j, &words[0][j], most_channels);
      ahead.ask(4 * lanes * step / noisy);
    }
    for (int64_t i = 0; i < together * noisy; ++i) indices[i] += together;
    for (int64_t k = 0; k < least(end - pixel, 4); k += 2)
      for (int64_t done = 0; done < count; done += lanes)
        for (int64_t j = done; j < done + lanes; ++j)
          box_muller(words[k][j], words[k + 1][j], made[k][j], made[k + 1][j]);
    for (auto& of_pixel : made)  // read for channels without noise at the end
      for (int l = 0; l < lanes; ++l) of_pixel[count + l] = Real(0);
    const auto normals_of = [&](int64_t i) GR_ALWAYS_INLINE { return made[i % 4] + i / 4 * noisy; };
    for_each_block<vector_bytes / sizeof(Real), 1>(channels, [&](auto block, int64_t c) GR_ALWAYS_INLINE {
      diffuse_channels<decltype(block)::lanes>(all, c, end - pixel, step, normals_of, in + pixel * step,
                                               out + pixel * step);
    });
  }
}

// Pixels from a whole block on of some of the batch's lines: a line is a channel where its pixels lie together, and a
// sample where its channels do. Of short lines it is all pixels.
template <typename T, typename Real>
void diffuse_lines(const Pass& pass, int64_t first_line, int64_t last_line, int64_t first_pixel, int64_t last_pixel) {
  const int64_t pixels = pass.shape.height * pass.shape.width, channels = pass.shape.channels;
  const int64_t width = pass.shape.channels_last ? channels : 1;
  const Levels<Real> levels = levels_of<Real>(pass).from(first_line * width);
  const T* in = static_cast<const T*>(pass.input) + first_line * pixels * width;
  T* out = static_cast<T*>(pass.output) + first_line * pixels * width;
  const int64_t lines = last_line - first_line;
  if (pass.shape.channels_last) {
    for (int64_t line = 0; line < lines; ++line, in += pixels * width, out += pixels * width)
      for (int64_t first = 0; first < channels; first += most_channels) {
        const int64_t count = least(channels - first, most_channels);
        diffuse_pixels(levels.from(line * width + first), count, first_pixel, last_pixel, channels, in + first,
                       out + first);
      }
  } else if (pixels <= 4 * most_blocks) {
    diffuse_short_rows(levels, lines, pixels, in, out);
  } else {
    for (int64_t line = 0; line < lines; ++line, in += pixels, out += pixels)
      diffuse_long_row(Level<Real>(levels, line), levels.seed ? levels.seed[line] : 0, first_pixel,
                       last_pixel - first_pixel, in + first_pixel, out + first_pixel);
  }
}

}  // namespace
}  // namespace gan_regularizers
