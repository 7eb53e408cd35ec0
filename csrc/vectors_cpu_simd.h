// Vectors of numbers on the CPU, and how they are read and written: a part of kernels_cpu_simd.cpp, which is compiled
// once for every instruction set, and therefore in an unnamed namespace.
#pragma once

#include <cstdint>
#include <type_traits>

#include "bits.h"
#include "platform.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define GR_ALWAYS_INLINE __attribute__((always_inline))  // of a lambda

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

GR_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
GR_INLINE int64_t greatest(int64_t a, int64_t b) { return a < b ? b : a; }

GR_INLINE float widen(float value) { return value; }
GR_INLINE double widen(double value) { return value; }
GR_INLINE void narrow(float value, float& out) { out = value; }
GR_INLINE void narrow(double value, double& out) { out = value; }

// `count` numbers that are added and multiplied as one.
template <typename T, int64_t count>
struct VectorOf {
  typedef T type __attribute__((vector_size(count * sizeof(T))));
};
template <typename T, int64_t count>
using Vector = typename VectorOf<T, count>::type;

// The bits of a number. A mask has all of them set, or none.
template <typename T>
using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>;

template <int64_t count, typename T>
GR_INLINE Vector<Bits<T>, count> load(const T* from) {
  Vector<Bits<T>, count> bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return bits;
}

template <typename Bits, typename T>
GR_INLINE void store(Bits bits, T* to) {
  __builtin_memcpy(to, &bits, sizeof bits);
}

// From 16 bits to 32 and back, of words that need no more. Compilers have __builtin_convertvector for it, which GCC 12
// does in pieces.
template <int64_t count>
GR_INLINE Vector<uint32_t, count> extended(Vector<uint16_t, count> halves) {
  using Words = Vector<uint32_t, count>;
#if defined(__AVX512F__)
  if constexpr (count == 16) return (Words)_mm512_cvtepu16_epi32((__m256i)halves);
#elif defined(__AVX2__)
  if constexpr (count == 8) return (Words)_mm256_cvtepu16_epi32((__m128i)halves);
#elif defined(__SSE2__)
  if constexpr (count == 4) return (Words)_mm_unpacklo_epi16(_mm_loadl_epi64((const __m128i*)&halves), __m128i{});
#elif defined(__aarch64__)
  if constexpr (count == 4) return (Words)vmovl_u16((uint16x4_t)halves);
#endif
  return __builtin_convertvector(halves, Words);
}

template <int64_t count>
GR_INLINE Vector<uint16_t, count> truncated(Vector<uint32_t, count> words) {
  using Halves = Vector<uint16_t, count>;
#if defined(__AVX512F__)
  if constexpr (count == 16) return (Halves)_mm512_cvtepi32_epi16((__m512i)words);
#elif defined(__AVX2__)
  if constexpr (count == 8) {
    const __m256i packed = _mm256_packus_epi32((__m256i)words, (__m256i)words);
    return (Halves)_mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08));
  }
#elif defined(__SSE2__)
  if constexpr (count == 4) {
    const __m128i pairs = _mm_shufflehi_epi16(_mm_shufflelo_epi16((__m128i)words, 0x08), 0x08);
    Halves halves;
    _mm_storel_epi64((__m128i*)&halves, _mm_shuffle_epi32(pairs, 0x08));
    return halves;
  }
#elif defined(__aarch64__)
  if constexpr (count == 4) return (Halves)vmovn_u32((uint32x4_t)words);
#endif
  return __builtin_convertvector(words, Halves);
}

template <typename T, typename Real, int64_t count>
GR_INLINE Vector<Real, count> widened(Vector<Bits<T>, count> bits) {
  using Reals = Vector<Real, count>;
  if constexpr (sizeof(T) == sizeof(Real)) {
    return bit_cast<Reals>(bits);
  } else {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, Float16> && count == 16) return (Reals)_mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__)
    if constexpr (std::is_same_v<T, Float16> && count == 8) return (Reals)_mm256_cvtph_ps((__m128i)bits);
#elif defined(__aarch64__)
    if constexpr (std::is_same_v<T, Float16> && count == 4) return (Reals)vcvt_f32_f16((float16x4_t)bits);
#endif
    const Vector<uint32_t, count> words = extended<count>(bits);
    return std::is_same_v<T, Float16> ? widen_float16<Reals>(words) : widen_bfloat16<Reals>(words);
  }
}

template <typename T, typename Real, int64_t count>
GR_INLINE Vector<Bits<T>, count> narrowed(Vector<Real, count> values) {
  if constexpr (sizeof(T) == sizeof(Real)) {
    return bit_cast<Vector<Bits<T>, count>>(values);
  } else {
#if defined(__AVX512F__)
    if constexpr (std::is_same_v<T, Float16> && count == 16)
      return (Vector<Bits<T>, count>)_mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
    if constexpr (std::is_same_v<T, Float16> && count == 8)
      return (Vector<Bits<T>, count>)_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__aarch64__)
    if constexpr (std::is_same_v<T, Float16> && count == 4)
      return (Vector<Bits<T>, count>)vcvt_f16_f32((float32x4_t)values);
#endif
    using Words = Vector<uint32_t, count>;
    return truncated<count>(std::is_same_v<T, Float16> ? narrow_float16<Words>(values)
                                                       : narrow_bfloat16<Words>(values));
  }
}

// To how many vectors neighbours in memory are dealt, in turns. Those of bfloat16 at even places and those at odd ones
// are widened and narrowed by shifts and masks, where a vector of neighbours would have to be spread out and packed.
template <typename T>
constexpr int64_t hands_of = std::is_same_v<T, BFloat16> ? 2 : 1;

template <typename T, typename Real, int64_t n, int64_t hands>
GR_INLINE void deal(Vector<Bits<T>, n * hands> bits, Vector<Real, n>* out) {
  if constexpr (hands == 1) {
    *out = widened<T, Real, n>(bits);
  } else {
    const auto words = bit_cast<Vector<uint32_t, n>>(bits);
    out[0] = bit_cast<Vector<Real, n>>(words << 16);
    out[1] = bit_cast<Vector<Real, n>>(words & 0xFFFF0000u);
  }
}

template <typename T, typename Real, int64_t n, int64_t hands>
GR_INLINE Vector<Bits<T>, n * hands> collected(const Vector<Real, n>* values) {
  if constexpr (hands == 1) {
    return narrowed<T, Real, n>(*values);
  } else {
    using Words = Vector<uint32_t, n>;
    const Words even = round_bfloat16<Words>(values[0]), odd = round_bfloat16<Words>(values[1]);
    return bit_cast<Vector<Bits<T>, n * hands>>((even >> 16) | (odd & 0xFFFF0000u));
  }
}

// Memory that is soon read and written, asked for bit by bit while other things are computed. Asked for at once, or not
// at all, it would be waited for.
template <typename T>
struct Ahead {
  const T* in;
  T* out;
  GR_INLINE void ask(int64_t count) {
    for (const T* const stop = in + count; in < stop; in += 64 / sizeof(T), out += 64 / sizeof(T)) {
      __builtin_prefetch(in);
      __builtin_prefetch(out, 1);
    }
  }
};

// Elements that are worked on at once, as some vectors of `lanes` each: addresses and branches are asked for once.
template <int64_t lanes_, int64_t vectors_>
struct Block {
  static constexpr int64_t lanes = lanes_, vectors = vectors_, size = lanes * vectors;
};
template <typename Block, typename T>
using Vectors = Vector<T, Block::lanes>[Block::vectors];
constexpr int64_t vectors_at_once = 64 / vector_bytes;

// Calls work(block, i) for blocks from 0 up to `total`, the last of which overlaps the one before it. Fewer elements
// than one has come in smaller blocks.
template <int64_t lanes, int64_t vectors, typename Work>
GR_INLINE void for_each_block(int64_t total, const Work& work) {
  constexpr int64_t size = lanes * vectors;
  if (total >= size)
    for (int64_t i = 0; i < total; i += size) work(Block<lanes, vectors>{}, least(i, total - size));
  else if constexpr (size > 1)
    for_each_block<(vectors > 1 ? lanes : lanes > 16 ? lanes / 2 : lanes > 4 ? lanes / 4 : 1), 1>(total, work);
}

}  // namespace
}  // namespace gan_regularizers
