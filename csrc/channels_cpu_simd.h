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

// One channel's values. What is clean keeps its bits.
template <typename Real>
struct Level {
  Real gain, noise_std, constant;
  GR_INLINE Level(Real gain, Real noise_std, Real constant) : gain(gain), noise_std(noise_std), constant(constant) {}
  GR_INLINE Level(const Levels<Real>& levels, int64_t channel)
      : gain(levels.gain ? levels.gain[channel] : Real(1)),
        noise_std(levels.noise_std ? levels.noise_std[channel] : Real(0)),
        constant((Real(1) - gain) * levels.centre) {}
  GR_INLINE bool is_clean() const { return gain == Real(1) && noise_std == Real(0); }
  template <typename T>
  GR_INLINE void diffuse(T value, Real normal, T& out) const {
    T diffused;
    narrow(gain * widen(value) + constant + noise_std * normal, diffused);
    // Not as one choice, which GCC 12 does not vectorise where it is the same for a whole row.
    const Bits<T> kept = is_clean() ? static_cast<Bits<T>>(-1) : Bits<T>{};
    out = bit_cast<T>(static_cast<Bits<T>>((bit_cast<Bits<T>>(value) & kept) | (bit_cast<Bits<T>>(diffused) & ~kept)));
  }
};

// Pixels of one channel, from a whole block on, that lie together.
template <typename T, typename Real>
void diffuse_row(const Level<Real>& level, int64_t seed, int64_t first_pixel, int64_t count, const T* in, T* out) {
  if (level.is_clean()) {
    __builtin_memcpy(out, in, static_cast<size_t>(count) * sizeof(T));
    return;
  }
  if (level.noise_std == Real(0)) {
    for (int64_t i = 0; i < count; ++i) level.diffuse(in[i], Real(0), out[i]);
    return;
  }
  constexpr int64_t most = 1024;
  Real noise[most + 8 * lanes];  // normals come in whole vectors
  for (int64_t done = 0; done < count; done += most) {
    const int64_t end = least(count - done, most);
    normals(static_cast<uint64_t>(seed), static_cast<uint64_t>((first_pixel + done) / 4), end, noise);
    for (int64_t i = 0; i < end; ++i) level.diffuse(in[done + i], noise[i], out[done + i]);
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
      for (int64_t i = 0; i < pixels; ++i) level.diffuse(in[i], normal[i], out[i]);
      normal += level.noise_std != Real(0) ? 4 * blocks : 0;
    }
  }
}

constexpr int64_t most_channels = 256;  // that lie together, at once: buffers for more fill a first-level cache

// out[l] = from[slots[l]] with slots in [0, lanes).
template <typename Real>
GR_INLINE void spread(const Real* from, const int32_t* slots, Real* out) {
  for (int l = 0; l < lanes; ++l) out[l] = from[slots[l]];
}
#if defined(__AVX512F__)
GR_INLINE void spread(const float* from, const int32_t* slots, float* out) {
  _mm512_storeu_ps(out, _mm512_permutexvar_ps(_mm512_loadu_si512(slots), _mm512_loadu_ps(from)));
}
#elif defined(__AVX2__)
GR_INLINE void spread(const float* from, const int32_t* slots, float* out) {
  const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(slots));
  _mm256_storeu_ps(out, _mm256_permutevar8x32_ps(_mm256_loadu_ps(from), at));
}
#endif

// One pixel of channels that lie together. Not inlined: what a function is told of its pointers counts for the whole.
template <typename T, typename Real>
__attribute__((noinline)) void diffuse_pixel(int64_t channels, const Real* __restrict gain,
                                             const Real* __restrict noise_std, const Real* __restrict constant,
                                             const Real* __restrict noise, const T* __restrict in, T* __restrict out) {
  for (int64_t c = 0; c < channels; ++c)
    Level<Real>(gain[c], noise_std[c], constant[c]).diffuse(in[c], noise[c], out[c]);
}

// Pixels, from a whole block on, of at most `most_channels` channels that lie together. Normals are made for channels
// with noise alone, blocks of which follow on each other without a gap, and then spread over all. Where there is but
// one block that would take as long.
template <typename T, typename Real>
void diffuse_pixels(const Levels<Real>& levels, int64_t channels, int64_t first_pixel, int64_t last_pixel, int64_t step,
                    const T* in, T* out) {
  const bool spreads = last_pixel - first_pixel > 4;
  Real gain[most_channels], noise_std[most_channels], constant[most_channels];
  int64_t seeds[most_channels + lanes], indices[most_channels + lanes], begin[most_channels / lanes], noisy = 0;
  int32_t slots[most_channels];
  for (int64_t c = 0; c < channels; ++c) {
    const Level<Real> level(levels, c);
    gain[c] = level.gain;
    noise_std[c] = level.noise_std;
    constant[c] = level.constant;
  }
  if (levels.noise_std && !spreads) {
    __builtin_memcpy(seeds, levels.seed, static_cast<size_t>(channels) * sizeof *seeds);
    noisy = channels;
  } else if (levels.noise_std) {
    for (int64_t c = 0; c < channels; ++c) {
      if (c % lanes == 0) begin[c / lanes] = noisy;
      slots[c] = static_cast<int32_t>(noisy - begin[c / lanes]);
      seeds[noisy] = levels.seed[c];
      noisy += noise_std[c] != Real(0);
    }
    for (int64_t c = channels; c % lanes; ++c) slots[c] = 0;
  }

  // Normals of as many blocks as the buffers hold: those of pixel k of a block are made[k][block * noisy + j].
  const int64_t all_blocks = (last_pixel - first_pixel + 3) / 4;
  const int64_t together = noisy > 0 ? least(most_channels / noisy, all_blocks) : all_blocks;
  for (int64_t block = 0; block < together; ++block) {
    int64_t* const of_block = seeds + block * noisy;
    if (block > 0) __builtin_memcpy(of_block, seeds, static_cast<size_t>(noisy) * sizeof *seeds);
    for (int64_t j = 0; j < noisy; ++j) indices[block * noisy + j] = first_pixel / 4 + block;
  }
  for (int l = 0; l < lanes; ++l) seeds[together * noisy + l] = indices[together * noisy + l] = 0;
  uint32_t words[4][most_channels];
  Real made[4][most_channels + lanes], placed[most_channels] = {};
  for (int64_t pixel = first_pixel; pixel < last_pixel; pixel += 4 * together) {
    const int64_t end = least(pixel + 4 * together, last_pixel), count = (end - pixel + 3) / 4 * noisy;
    for (int64_t j = 0; j < count; j += lanes) philox_words(seeds + j, indices + j, &words[0][j], most_channels);
    for (int64_t i = 0; i < together * noisy; ++i) indices[i] += together;
    for (int64_t k = 0; k < least(end - pixel, 4); k += 2)
      for (int64_t done = 0; done < count; done += lanes)
        for (int64_t j = done; j < done + lanes; ++j)
          box_muller(words[k][j], words[k + 1][j], made[k][j], made[k + 1][j]);
    for (auto& of_pixel : made)  // read for the last channels, if they have no noise
      for (int l = 0; l < lanes; ++l) of_pixel[count + l] = Real(0);
    for (int64_t at = pixel; at < end; ++at) {
      const Real* noise = made[(at - pixel) % 4] + (at - pixel) / 4 * noisy;
      if (noisy != channels) {
        for (int64_t c = 0; noisy > 0 && c < channels; c += lanes)
          spread(noise + begin[c / lanes], slots + c, placed + c);
        noise = placed;
      }
      diffuse_pixel(channels, gain, noise_std, constant, noise, in + at * step, out + at * step);
    }
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
      diffuse_row(Level<Real>(levels, line), levels.seed ? levels.seed[line] : 0, first_pixel, last_pixel - first_pixel,
                  in + first_pixel, out + first_pixel);
  }
}

}  // namespace
}  // namespace gan_regularizers
