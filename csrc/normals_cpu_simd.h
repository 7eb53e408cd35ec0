// Many normals at once on the CPU: the part of kernels_cpu_simd.cpp that philox.h is vectorised in, compiled once for
// every instruction set and therefore in an unnamed namespace.
#pragma once

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
typedef uint64_t Half __attribute__((vector_size(vector_bytes)));

// `lanes` words, each in the lower half of a 64-bit lane. The rounds are one long chain of operations; with two vectors
// a processor has two of them to work on.
struct Words {
  Half first, second;
};

GR_INLINE Words operator^(Words a, Words b) { return {a.first ^ b.first, a.second ^ b.second}; }
GR_INLINE Words operator^(Words a, uint32_t key) { return {a.first ^ key, a.second ^ key}; }
GR_INLINE Words operator>>(Words a, int bits) { return {a.first >> bits, a.second >> bits}; }

GR_INLINE Half product(Half words, uint32_t factor) {
  const Half factors = Half{} + factor;
#if defined(__AVX512F__)
  return (Half)_mm512_mul_epu32((__m512i)words, (__m512i)factors);
#elif defined(__AVX2__)
  return (Half)_mm256_mul_epu32((__m256i)words, (__m256i)factors);
#elif defined(__SSE2__)
  return (Half)_mm_mul_epu32((__m128i)words, (__m128i)factors);
#else
  return (words & 0xFFFFFFFFu) * factors;
#endif
}

GR_INLINE void multiply_words(Words words, uint32_t factor, Words& high, Words& low) {
  low = {product(words.first, factor), product(words.second, factor)};
  high = low >> 32;
}

// Stores words in turns: the first of `even`, the first of `odd`, the second of `even` and so on.
GR_INLINE void store_in_turns(Half even, Half odd, uint32_t* out) {
  const Half both = (even & 0xFFFFFFFFu) | (odd << 32);
  __builtin_memcpy(out, &both, sizeof both);
}

// The words of `lanes` blocks from `block` on, as the pairs that Box-Muller takes: two of each block, in turns.
GR_INLINE void philox_pairs(uint64_t seed, uint64_t block, uint32_t* radius_words, uint32_t* angle_words) {
  Half index;
  for (int l = 0; l < lanes / 2; ++l) index[l] = l;
  index += block;
  const Words blocks = {index, index + lanes / 2};
  Words words[4] = {blocks, blocks >> 32};
  philox_4x32<Words, multiply_words>(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  store_in_turns(words[0].first, words[2].first, radius_words);
  store_in_turns(words[1].first, words[3].first, angle_words);
  store_in_turns(words[0].second, words[2].second, radius_words + lanes);
  store_in_turns(words[1].second, words[3].second, angle_words + lanes);
}

// Normals of whole blocks, at least `count` of them, in turns of words and of what is made of them: so short a loop is
// one whose next round a processor has begun before it is done with this one.
template <typename Real>
void normals(uint64_t seed, uint64_t block, int64_t count, Real* out) {
  constexpr int64_t most_pairs = 128;
  uint32_t radius_words[most_pairs], angle_words[most_pairs];
  for (int64_t pairs; count > 0; count -= 2 * pairs, out += 2 * pairs) {
    for (pairs = 0; pairs < most_pairs && 2 * pairs < count; pairs += 2 * lanes, block += lanes)
      philox_pairs(seed, block, radius_words + pairs, angle_words + pairs);
    for (int64_t done = 0; done < pairs; done += lanes)
      for (int64_t i = done; i < done + lanes; ++i)
        box_muller(radius_words[i], angle_words[i], out[2 * i], out[2 * i + 1]);
  }
}

}  // namespace
}  // namespace gan_regularizers
