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
// comes to lie in the upper halves of its results is no part of them. Key is a word, or a vector of them.
template <typename Word, void (*multiply)(Word, uint32_t, Word& high, Word& low), typename Key>
GR_INLINE void philox_4x32(Word (&c)[4], Key key_low, Key key_high) {
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

// -2 log u of u = (word + 1/2) 2^-32, to 2 ulp: u = 2^e (1 + m) with 1 + m in [sqrt(1/2), sqrt(2)), and the polynomial
// of least relative error, 3e-8, for -2 log(1 + m) = n + n^2 y at n = -2 m. Scaling by powers of two changes no bit.
GR_HOST_INLINE float squared_radius(float word) {
  constexpr uint32_t sqrt_half = 0x3F3504F3u, two = 1u << 23, two_to_32 = 32u << 23;  // as factors
  // The half step keeps the logarithm away from zero.
  const uint32_t above = bit_cast<uint32_t>(word + 0.5f) - (sqrt_half + two_to_32);
  const float e = static_cast<float>(static_cast<int32_t>(above) >> 23);
  const float n = 2.0f - bit_cast<float>((above & 0x7FFFFFu) + (sqrt_half + two));
  const float n2 = n * n;
  // In a tree, which has a shorter chain of operations than Horner's rule.
  const float y0 = n * 8.33348781e-2f + 2.49999955e-1f, y2 = n * 1.24762952e-2f + 3.12521942e-2f;
  const float y4 = n * 2.33093346e-3f + 5.17828390e-3f, y6 = n * 3.41204635e-4f + 1.11777498e-3f;
  const float y = (y6 * n2 + y4) * (n2 * n2) + (y2 * n2 + y0);
  return e * -1.38629436f + (n2 * y + n);
}

// The natural logarithm of u in [2^-33, 1], with the series of fdlibm's log, log(1 + m) = 2 atanh(s) with
// s = m / (2 + m).
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

GR_HOST_INLINE double squared_radius(double word) { return -2.0 * log_of_uniform(word * 0x1p-32 + 0x1p-33); }

GR_HOST_INLINE float square_root(float x) { return __builtin_sqrtf(x); }
GR_HOST_INLINE double square_root(double x) { return __builtin_sqrt(x); }

// Sine and cosine of an angle in [-pi/4, pi/4], by the polynomials of least relative error: 4e-9 and 4e-8.
GR_HOST_INLINE void sine_cosine(float angle, float& sine, float& cosine) {
  const float z = angle * angle;
  sine = ((-1.95152833e-4f * z + 8.33216076e-3f) * z - 1.66666546e-1f) * z * angle + angle;
  cosine = ((-1.35918535e-3f * z + 4.16557770e-2f) * z - 4.99998847e-1f) * z + 1.0f;
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

// Turns the sign over where the highest bit of a word is set.
GR_HOST_INLINE float turned(float x, uint32_t word) {
  return bit_cast<float>(bit_cast<uint32_t>(x) ^ (word & 0x80000000u));
}
GR_HOST_INLINE double turned(double x, uint32_t word) {
  return bit_cast<double>(bit_cast<uint64_t>(x) ^ static_cast<uint64_t>(word & 0x80000000u) << 32);
}

// Two normals from two words.
template <typename Real>
GR_HOST_INLINE void box_muller(uint32_t radius_word, uint32_t angle_word, Real& first, Real& second) {
  const Real r = square_root(squared_radius(static_cast<Real>(radius_word)));
  // The angle is a multiple of a quarter turn, which the two highest bits of `rounded` hold, plus a rest in [-1/8, 1/8)
  // of a turn, which the other bits of the word are as a number with a sign. Both are exact.
  const uint32_t rounded = angle_word + 0x20000000u;
  const Real rest = static_cast<Real>(static_cast<int32_t>(angle_word << 2));
  Real sine, cosine;
  sine_cosine(rest * Real(6.283185307179586 * 0x1p-34), sine, cosine);
  const bool swapped = rounded & 0x40000000u;
  first = r * turned(swapped ? sine : cosine, rounded + 0x40000000u);
  second = r * turned(swapped ? cosine : sine, rounded);
}
#endif

// The four normals of elements 4 block .. 4 block + 3.
GR_INLINE void normal_block(uint64_t seed, uint64_t block, float (&normals)[4]) {
  uint32_t words[4] = {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0};
  philox_4x32<uint32_t, multiply_words>(words, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  for (int pair = 0; pair < 4; pair += 2) box_muller(words[pair], words[pair + 1], normals[pair], normals[pair + 1]);
}

}  // namespace gan_regularizers
