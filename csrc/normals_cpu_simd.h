// Many normals at once on the CPU: the part of kernels_cpu_simd.cpp that philox.h is vectorised in, compiled once for
// every instruction set and therefore in an unnamed namespace.
#pragma once

#include "philox.h"
#include "vectors_cpu_simd.h"

namespace gan_regularizers {
namespace {

#if defined(__SSE2__)
typedef uint64_t Half __attribute__((vector_size(vector_bytes)));

// `lanes` words, each in the lower half of a 64-bit lane. The rounds are one long chain of operations; with two vectors
// a processor has two of them to work on.
struct Words {
  Half first, second;
};

GR_INLINE Words operator^(Words a, Words b) { return {a.first ^ b.first, a.second ^ b.second}; }
GR_INLINE Words operator^(Words a, uint32_t key) { return {a.first ^ key, a.second ^ key}; }
GR_INLINE Words& operator+=(Words& a, uint32_t word) { return a = {a.first + word, a.second + word}; }
GR_INLINE Words operator>>(Words a, int bits) { return {a.first >> bits, a.second >> bits}; }

GR_INLINE Half product(Half words, uint32_t factor) {
  const Half factors = Half{} + factor;
#if defined(__AVX512F__)
  return (Half)_mm512_mul_epu32((__m512i)words, (__m512i)factors);
#elif defined(__AVX2__)
  return (Half)_mm256_mul_epu32((__m256i)words, (__m256i)factors);
#else
  return (Half)_mm_mul_epu32((__m128i)words, (__m128i)factors);
#endif
}

GR_INLINE void multiply_words(Words words, uint32_t factor, Words& high, Words& low) {
  low = {product(words.first, factor), product(words.second, factor)};
  high = low >> 32;
}

// The words of the numbers from `number` on.
GR_INLINE void count_from(uint64_t number, Words& low, Words& high) {
  Half numbers;
  for (int l = 0; l < lanes / 2; ++l) numbers[l] = l;
  numbers += number;
  low = {numbers, numbers + lanes / 2};
  high = low >> 32;
}

// The words of `lanes` numbers.
GR_INLINE void load(const int64_t* numbers, Words& low, Words& high) {
  __builtin_memcpy(&low.first, numbers, sizeof low.first);
  __builtin_memcpy(&low.second, numbers + lanes / 2, sizeof low.second);
  high = low >> 32;
}

GR_INLINE void store(Words words, uint32_t* out) {
  for (int l = 0; l < lanes / 2; ++l) out[l] = static_cast<uint32_t>(words.first[l]);
  for (int l = 0; l < lanes / 2; ++l) out[lanes / 2 + l] = static_cast<uint32_t>(words.second[l]);
}

GR_INLINE void store_in_turns(Half even, Half odd, uint32_t* out) {
  const Half both = (even & 0xFFFFFFFFu) | (odd << 32);
  __builtin_memcpy(out, &both, sizeof both);
}

// Stores the first word of `even`, the first of `odd`, the second of `even` and so on.
GR_INLINE void store_in_turns(Words even, Words odd, uint32_t* out) {
  store_in_turns(even.first, odd.first, out);
  store_in_turns(even.second, odd.second, out + lanes);
}
#else
// The same where vectors multiply to twice their length, as those of NEON.
typedef uint32_t Words __attribute__((vector_size(vector_bytes)));

GR_INLINE void multiply_words(Words words, uint32_t factor, Words& high, Words& low) {
#if defined(__aarch64__)
  const uint32x4_t first = (uint32x4_t)vmull_u32(vget_low_u32((uint32x4_t)words), vdup_n_u32(factor));
  const uint32x4_t second = (uint32x4_t)vmull_high_u32((uint32x4_t)words, vdupq_n_u32(factor));
  low = (Words)vuzp1q_u32(first, second);
  high = (Words)vuzp2q_u32(first, second);
#else
  for (int l = 0; l < lanes; ++l) {
    const uint64_t product = static_cast<uint64_t>(words[l]) * factor;
    low[l] = static_cast<uint32_t>(product);
    high[l] = static_cast<uint32_t>(product >> 32);
  }
#endif
}

GR_INLINE void count_from(uint64_t number, Words& low, Words& high) {
  Words lows = {}, highs = {};
  for (int l = 0; l < lanes; ++l) {
    lows[l] = static_cast<uint32_t>(number + l);
    highs[l] = static_cast<uint32_t>((number + l) >> 32);
  }
  low = lows;
  high = highs;
}

GR_INLINE void load(const int64_t* numbers, Words& low, Words& high) {
  Words lows = {}, highs = {};
  for (int l = 0; l < lanes; ++l) {
    lows[l] = static_cast<uint32_t>(numbers[l]);
    highs[l] = static_cast<uint32_t>(numbers[l] >> 32);
  }
  low = lows;
  high = highs;
}

GR_INLINE void store(Words words, uint32_t* out) { __builtin_memcpy(out, &words, sizeof words); }

GR_INLINE void store_in_turns(Words even, Words odd, uint32_t* out) {
  for (int l = 0; l < lanes; ++l) {
    out[2 * l] = even[l];
    out[2 * l + 1] = odd[l];
  }
}
#endif

// The words of `lanes` blocks from `block` on, as the pairs that Box-Muller takes: two of each block, in turns.
GR_INLINE void philox_pairs(uint64_t seed, uint64_t block, uint32_t* radius_words, uint32_t* angle_words) {
  Words words[4] = {};
  count_from(block, words[0], words[1]);
  philox_4x32<Words, multiply_words>(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  store_in_turns(words[0], words[2], radius_words);
  store_in_turns(words[1], words[3], angle_words);
}

// The same of blocks under a seed each.
GR_INLINE void philox_pairs(const int64_t* seeds, const int64_t* blocks, uint32_t* radius_words,
                            uint32_t* angle_words) {
  Words words[4] = {}, key_low, key_high;
  load(blocks, words[0], words[1]);
  load(seeds, key_low, key_high);
  philox_4x32<Words, multiply_words>(words, key_low, key_high);
  store_in_turns(words[0], words[2], radius_words);
  store_in_turns(words[1], words[3], angle_words);
}

// The same with word k of all blocks from out + k step on.
GR_INLINE void philox_words(const int64_t* seeds, const int64_t* blocks, uint32_t* out, int64_t step) {
  Words words[4] = {}, key_low, key_high;
  load(blocks, words[0], words[1]);
  load(seeds, key_low, key_high);
  philox_4x32<Words, multiply_words>(words, key_low, key_high);
  for (int k = 0; k < 4; ++k) store(words[k], out + k * step);
}

// Normals from pairs of words, the two of each pair in turns. The number of pairs is one of whole vectors.
template <typename Real>
GR_INLINE void normals_of_pairs(const uint32_t* radius_words, const uint32_t* angle_words, int64_t pairs, Real* out) {
  for (int64_t done = 0; done < pairs; done += lanes)
    for (int64_t i = done; i < done + lanes; ++i)
      box_muller(radius_words[i], angle_words[i], out[2 * i], out[2 * i + 1]);
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
    normals_of_pairs(radius_words, angle_words, pairs, out);
  }
}

}  // namespace
}  // namespace gan_regularizers
