// Counter-based normals: Philox 4x32-10 (Salmon et al., SC 2011) and the Box-Muller transform, for host and device.
//
// gan_regularizers/ops/philox.py is the specification. A normal depends on the seed of its sample and on its logical
// index there: element i takes word i % 4 of the block with counter (i / 4, 0) under key = seed, and the words of a
// block are paired as (0, 1) and (2, 3).
#pragma once

#include "bits.h"
#include "platform.h"

namespace gan_regularizers {

// The halves of the product of two words.
GR_INLINE void multiply_words(uint32_t word, uint32_t factor, uint32_t& high, uint32_t& low) {
#if defined(__CUDA_ARCH__)
  high = __umulhi(word, factor);
  low = word * factor;
#else
  const uint64_t product = static_cast<uint64_t>(word) * factor;
  high = static_cast<uint32_t>(product >> 32);
  low = static_cast<uint32_t>(product);
#endif
}

// Ten rounds on four counter words. Word may be a vector of 64-bit lanes with a word in the low half of each; what
// comes to lie in the upper halves of its results is no part of them.
template <typename Word, void (*multiply)(Word, uint32_t, Word& high, Word& low)>
GR_INLINE void philox_4x32(Word (&c)[4], uint32_t key_low, uint32_t key_high) {
  GR_UNROLL
  for (int round = 0; round < 10; ++round) {
    Word even_high, even_low, odd_high, odd_low;
    multiply(c[0], 0xD2511F53u, even_high, even_low);
    multiply(c[2], 0xCD9E8D57u, odd_high, odd_low);
    c[0] = odd_high ^ c[1] ^ key_low;
    c[2] = even_high ^ c[3] ^ key_high;
    c[1] = odd_low;
    c[3] = even_low;
    key_low += 0x9E3779B9u;
    key_high += 0xBB67AE85u;
  }
}

#if defined(__CUDA_ARCH__)
// Two normals from two words.
GR_INLINE void box_muller(uint32_t radius_word, uint32_t angle_word, float& first, float& second) {
  // The half step keeps the logarithm away from zero.
  const float u = static_cast<float>(radius_word) * 0x1p-32f + 0x1p-33f;
  // The hardware's logarithm is off by up to 2^-22, too much near 1, where two terms of its series take over.
  const float below = 1.0f - u;
  const float series = below * (2.0f + below);
  const float squared = below < 0.004f ? series : -1.3862943611198906f * __log2f(u);
  const float r = sqrtf(squared);
  __sincosf(static_cast<float>(static_cast<int32_t>(angle_word)) * (6.283185307179586f * 0x1p-32f), &second, &first);
  first *= r;
  second *= r;
}
#else
#define GR_HOST_INLINE inline __attribute__((always_inline))

// The host's functions are branch-free, so loops over them vectorise, and of plain additions and multiplications, so
// all instruction sets give the same bits. Those of a libm have other bits where it finds a fused multiply-add.

// The natural logarithm of u in [2^-33, 1], to 1 ulp: u = 2^e (1 + m) with 1 + m in [sqrt(1/2), sqrt(2)), and the
// polynomial of Cephes' logf for log(1 + m).
GR_HOST_INLINE float log_of_uniform(float u) {
  constexpr uint32_t sqrt_half = 0x3F3504F3u;
  const uint32_t above = bit_cast<uint32_t>(u) - sqrt_half;
  const float e = static_cast<float>(static_cast<int32_t>(above) >> 23);
  const float m = bit_cast<float>((above & 0x7FFFFFu) + sqrt_half) - 1.0f;
  const float m2 = m * m;
  float y = 7.0376836292e-2f;
  y = y * m - 1.1514610310e-1f;
  y = y * m + 1.1676998740e-1f;
  y = y * m - 1.2420140846e-1f;
  y = y * m + 1.4249322787e-1f;
  y = y * m - 1.6668057665e-1f;
  y = y * m + 2.0000714765e-1f;
  y = y * m - 2.4999993993e-1f;
  y = y * m + 3.3333331174e-1f;
  // log(2) in two parts, the first exact in few bits.
  return m + (y * m * m2 + e * -2.12194440e-4f - 0.5f * m2) + e * 0.693359375f;
}

// The same with the series of fdlibm's log, log(1 + m) = 2 atanh(s) with s = m / (2 + m).
GR_HOST_INLINE double log_of_uniform(double u) {
  constexpr uint64_t sqrt_half = 0x3FE6A09E667F3BCDu;
  const uint64_t above = bit_cast<uint64_t>(u) - sqrt_half;
  const double e = static_cast<double>(static_cast<int32_t>(above >> 32) >> 20);
  const double m = bit_cast<double>((above & 0xFFFFFFFFFFFFFu) + sqrt_half) - 1.0;
  const double s = m / (2.0 + m);
  const double z = s * s;
  double y = 1.479819860511658591e-01;
  y = y * z + 1.531383769920937332e-01;
  y = y * z + 1.818357216161805012e-01;
  y = y * z + 2.222219843214978396e-01;
  y = y * z + 2.857142874366239149e-01;
  y = y * z + 3.999999999940941908e-01;
  y = y * z + 6.666666666666735130e-01;
  const double half_square = 0.5 * m * m;
  const double rest = s * (half_square + y * z) + e * 1.90821492927058770002e-10;
  return e * 6.93147180369123816490e-01 - ((half_square - rest) - m);
}

GR_HOST_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
GR_HOST_INLINE double square_root(double x) { return __builtin_sqrt(x); }

// Sine and cosine of an angle in [-pi/4, pi/4].
GR_HOST_INLINE void sine_cosine(float angle, float& sine, float& cosine) {
  const float z = angle * angle;
  sine = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * angle + angle;
  cosine = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
}

// The polynomials of fdlibm.
GR_HOST_INLINE void sine_cosine(double angle, double& sine, double& cosine) {
  const double z = angle * angle;
  double y = 1.58969099521155010221e-10;
  y = y * z - 2.50507602534068634195e-08;
  y = y * z + 2.75573137070700676789e-06;
  y = y * z - 1.98412698298579493134e-04;
  y = y * z + 8.33333333332248946124e-03;
  y = y * z - 1.66666666666666324348e-01;
  sine = y * z * angle + angle;
  y = -1.13596475577881948265e-11;
  y = y * z + 2.08757232129817482790e-09;
  y = y * z - 2.75573143513906633035e-07;
  y = y * z + 2.48015872894767294178e-05;
  y = y * z - 1.38888888888741095749e-03;
  y = y * z + 4.16666666666666019037e-02;
  // What 1 - z / 2 loses by rounding is made up for.
  const double half = 0.5 * z;
  const double most = 1.0 - half;
  cosine = most + (((1.0 - most) - half) + y * z * z);
}

// Turns the sign over where bit 1 of `quarter` is set.
GR_HOST_INLINE float turned(float x, uint32_t quarter) {
  return bit_cast<float>(bit_cast<uint32_t>(x) ^ (quarter & 2u) << 30);
}
GR_HOST_INLINE double turned(double x, uint32_t quarter) {
  return bit_cast<double>(bit_cast<uint64_t>(x) ^ static_cast<uint64_t>(quarter & 2u) << 62);
}

// Two normals from two words.
template <typename Real>
GR_HOST_INLINE void box_muller(uint32_t radius_word, uint32_t angle_word, Real& first, Real& second) {
  // The half step keeps the logarithm away from zero.
  const Real u = static_cast<Real>(radius_word) * Real(0x1p-32) + Real(0x1p-33);
  const Real r = square_root(Real(-2) * log_of_uniform(u));
  // The angle as a multiple of a quarter turn plus a rest in [-1/8, 1/8) of a turn; both are exact in the word.
  const uint32_t rounded = angle_word + 0x20000000u;
  const uint32_t quarter = rounded >> 30;
  const Real rest = static_cast<Real>(static_cast<int32_t>(rounded & 0x3FFFFFFFu) - 0x20000000);
  Real sine, cosine;
  sine_cosine(rest * Real(6.283185307179586 * 0x1p-32), sine, cosine);
  const bool swapped = quarter & 1u;
  first = r * turned(swapped ? sine : cosine, quarter + 1u);
  second = r * turned(swapped ? cosine : sine, quarter);
}
#endif

// The four normals of elements 4 block .. 4 block + 3.
GR_INLINE void normal_block(uint64_t seed, uint64_t block, float (&normals)[4]) {
  uint32_t words[4] = {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0};
  philox_4x32<uint32_t, multiply_words>(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  for (int pair = 0; pair < 4; pair += 2) box_muller(words[pair], words[pair + 1], normals[pair], normals[pair + 1]);
}

}  // namespace gan_regularizers
