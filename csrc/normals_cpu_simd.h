// Many normals at once on the CPU: the part of kernels_cpu_simd.cpp that philox.h is vectorised in, compiled once for
// every instruction set and therefore in an unnamed namespace.
#pragma once

#include "philox.h"
#include "vectors_cpu_simd.h"

namespace gan_regularizers {
namespace {

#if defined(__SSE2__)
typedef uint64_t WordVector __attribute__((vector_size(vector_bytes)));  // a word in the lower half of each lane

GR_INLINE void multiply(WordVector words, uint32_t factor, WordVector& high, WordVector& low) {
  const WordVector factors = WordVector{} + factor;
#if defined(__AVX512F__)
  low = (WordVector)_mm512_mul_epu32((__m512i)words, (__m512i)factors);
#elif defined(__AVX2__)
  low = (WordVector)_mm256_mul_epu32((__m256i)words, (__m256i)factors);
#else
  low = (WordVector)_mm_mul_epu32((__m128i)words, (__m128i)factors);
#endif
  high = low >> 32;
}

// The words of the numbers from `number` on.
GR_INLINE void count_from(uint64_t number, WordVector& low, WordVector& high) {
  WordVector numbers;
  for (int l = 0; l < lanes / 2; ++l) numbers[l] = l;
  low = numbers + number;
  high = low >> 32;
}

// The words of as many numbers as a vector has lanes.
GR_INLINE void load(const int64_t* numbers, WordVector& low, WordVector& high) {
  __builtin_memcpy(&low, numbers, sizeof low);
  high = low >> 32;
}

GR_INLINE void store(WordVector words, uint32_t* out) {
  for (int l = 0; l < lanes / 2; ++l) out[l] = static_cast<uint32_t>(words[l]);
}

// Stores the first word of `even`, the first of `odd`, the second of `even` and so on.
GR_INLINE void store_in_turns(WordVector even, WordVector odd, uint32_t* out) {
  const WordVector both = (even & 0xFFFFFFFFu) | (odd << 32);
  __builtin_memcpy(out, &both, sizeof both);
}
#else
// The same where vectors multiply to twice their length, as those of NEON.
typedef uint32_t WordVector __attribute__((vector_size(vector_bytes)));

GR_INLINE void multiply(WordVector words, uint32_t factor, WordVector& high, WordVector& low) {
#if defined(__aarch64__)
  const uint32x4_t first = (uint32x4_t)vmull_u32(vget_low_u32((uint32x4_t)words), vdup_n_u32(factor));
  const uint32x4_t second = (uint32x4_t)vmull_high_u32((uint32x4_t)words, vdupq_n_u32(factor));
  low = (WordVector)vuzp1q_u32(first, second);
  high = (WordVector)vuzp2q_u32(first, second);
#else
  for (int l = 0; l < lanes; ++l) {
    const uint64_t product = static_cast<uint64_t>(words[l]) * factor;
    low[l] = static_cast<uint32_t>(product);
    high[l] = static_cast<uint32_t>(product >> 32);
  }
#endif
}

GR_INLINE void count_from(uint64_t number, WordVector& low, WordVector& high) {
  WordVector lows = {}, highs = {};
  for (int l = 0; l < lanes; ++l) {
    lows[l] = static_cast<uint32_t>(number + l);
    highs[l] = static_cast<uint32_t>((number + l) >> 32);
  }
  low = lows;
  high = highs;
}

GR_INLINE void load(const int64_t* numbers, WordVector& low, WordVector& high) {
  WordVector lows = {}, highs = {};
  for (int l = 0; l < lanes; ++l) {
    lows[l] = static_cast<uint32_t>(numbers[l]);
    highs[l] = static_cast<uint32_t>(numbers[l] >> 32);
  }
  low = lows;
  high = highs;
}

GR_INLINE void store(WordVector words, uint32_t* out) { __builtin_memcpy(out, &words, sizeof words); }

GR_INLINE void store_in_turns(WordVector even, WordVector odd, uint32_t* out) {
  for (int l = 0; l < lanes; ++l) {
    out[2 * l] = even[l];
    out[2 * l + 1] = odd[l];
  }
}
#endif

// `count` words. The rounds are one long chain of operations, and a processor works on those of several vectors at
// once.
template <int count>
struct Words {
  static constexpr int each = vector_bytes / sizeof(WordVector{}[0]), vectors = count / each;
  WordVector vector[vectors];
};

template <int count>
GR_INLINE Words<count> operator^(Words<count> a, const Words<count>& b) {
  GR_UNROLL
  for (int v = 0; v < a.vectors; ++v) a.vector[v] ^= b.vector[v];
  return a;
}

template <int count>
GR_INLINE Words<count> operator^(Words<count> a, uint32_t key) {
  GR_UNROLL
  for (int v = 0; v < a.vectors; ++v) a.vector[v] ^= key;
  return a;
}

template <int count>
GR_INLINE Words<count>& operator+=(Words<count>& a, uint32_t word) {
  GR_UNROLL
  for (int v = 0; v < a.vectors; ++v) a.vector[v] += word;
  return a;
}

template <int count>
GR_INLINE void multiply_words(Words<count> words, uint32_t factor, Words<count>& high, Words<count>& low) {
  GR_UNROLL
  for (int v = 0; v < words.vectors; ++v) multiply(words.vector[v], factor, high.vector[v], low.vector[v]);
}

template <int count>
GR_INLINE void load(const int64_t* numbers, Words<count>& low, Words<count>& high) {
  GR_UNROLL
  for (int v = 0; v < low.vectors; ++v) load(numbers + v * low.each, low.vector[v], high.vector[v]);
}

template <int count>
GR_INLINE void store_in_turns(const Words<count>& even, const Words<count>& odd, uint32_t* out) {
  GR_UNROLL
  for (int v = 0; v < even.vectors; ++v) store_in_turns(even.vector[v], odd.vector[v], out + 2 * v * even.each);
}

// The words of `count` blocks from `block` on, as the pairs that Box-Muller takes: two of each block, in turns.
template <int count>
GR_INLINE void philox_pairs(uint64_t seed, uint64_t block, uint32_t* radius_words, uint32_t* angle_words) {
  Words<count> words[4] = {};
  GR_UNROLL
  for (int v = 0; v < words->vectors; ++v) count_from(block + v * words->each, words[0].vector[v], words[1].vector[v]);
  philox_4x32<Words<count>, multiply_words<count>>(words, static_cast<uint32_t>(seed),
                                                   static_cast<uint32_t>(seed >> 32));
  store_in_turns(words[0], words[2], radius_words);
  store_in_turns(words[1], words[3], angle_words);
}

// The words of `lanes` blocks under a seed each.
GR_INLINE void philox_each(const int64_t* seeds, const int64_t* blocks, Words<lanes> (&words)[4]) {
  Words<lanes> key_low, key_high;
  load(blocks, words[0], words[1]);
  load(seeds, key_low, key_high);
  philox_4x32<Words<lanes>, multiply_words<lanes>>(words, key_low, key_high);
}

GR_INLINE void philox_pairs(const int64_t* seeds, const int64_t* blocks, uint32_t* radius_words,
                            uint32_t* angle_words) {
  Words<lanes> words[4] = {};
  philox_each(seeds, blocks, words);
  store_in_turns(words[0], words[2], radius_words);
  store_in_turns(words[1], words[3], angle_words);
}

// The same with word k of all blocks from out + k step on.
GR_INLINE void philox_words(const int64_t* seeds, const int64_t* blocks, uint32_t* out, int64_t step) {
  Words<lanes> words[4] = {};
  philox_each(seeds, blocks, words);
  for (int k = 0; k < 4; ++k)
    for (int v = 0; v < words->vectors; ++v) store(words[k].vector[v], out + k * step + v * words->each);
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
// Meanwhile the memory of as many elements is asked for.
template <typename Real, typename T>
void normals(uint64_t seed, uint64_t block, int64_t count, Real* out, Ahead<T> ahead) {
  constexpr int64_t most_pairs = 128;
  uint32_t radius_words[most_pairs], angle_words[most_pairs];
  for (int64_t pairs; count > 0; count -= 2 * pairs, out += 2 * pairs) {
    for (pairs = 0; pairs < most_pairs && 2 * pairs + 4 * lanes < count; pairs += 4 * lanes, block += 2 * lanes) {
      philox_pairs<2 * lanes>(seed, block, radius_words + pairs, angle_words + pairs);
      ahead.ask(8 * lanes);
    }
    if (pairs < most_pairs && 2 * pairs < count) {
      philox_pairs<lanes>(seed, block, radius_words + pairs, angle_words + pairs);
      pairs += 2 * lanes;
    }
    normals_of_pairs(radius_words, angle_words, pairs, out);
  }
}

}  // namespace
}  // namespace gan_regularizers
