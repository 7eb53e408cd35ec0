// The bits of floating-point numbers, and half precision, which the host's compilers lack and the device's have in
// headers that torch does not bring. All is branch-free, so loops over it vectorise.
#pragma once

#if !defined(__CUDACC_RTC__)
#include <cstring>
#endif

#include "platform.h"

namespace gan_regularizers {

// C++20's std::bit_cast.
template <typename To, typename From>
GR_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Half precision as its bits.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// Between single and half precision. A Word is a uint32_t that holds the bits of the half in its lower part, and a
// Float a float; or both are vectors of them.
template <typename Float, typename Word>
GR_INLINE Float widen_bfloat16(Word bits) {
  return bit_cast<Float>(bits << 16);
}

// The half in the upper part of a word. It is rounded to nearest, ties to even, as everywhere: what falls away is added
// to just under a half, or to a half where the bit that stays is odd. A NaN keeps its bits; it is quiet, as those of
// arithmetic are, or what falls away is zero.
template <typename Word, typename Float>
GR_INLINE Word round_bfloat16(Float value) {
  const Word none{}, bits = bit_cast<Word>(value), added = ((bits >> 16) & 1u) + 0x7FFFu;
  return bits + (value == value ? added : none);
}

template <typename Word, typename Float>
GR_INLINE Word narrow_bfloat16(Float value) {
  return round_bfloat16<Word>(value) >> 16;
}

template <typename Float, typename Word>
GR_INLINE Float widen_float16(Word bits) {
  const Word none{}, sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7FFFu) << 13;
  const Word exponent = magnitude & 0x0F800000u;
  // The exponent's bias grows by 112; the highest exponent, of infinity and NaN, grows by 224 to be the highest again.
  const Word more = exponent == 0x0F800000u ? none + 0x38000000u : none;
  // A subnormal number is m 2^-24; with an exponent put in front it is 2^-14 + m 2^-24.
  const Word front = exponent == 0u ? none + 0x00800000u : none, excess = exponent == 0u ? none + 0x38800000u : none;
  const Float size = bit_cast<Float>((magnitude + 0x38000000u) + (more + front)) - bit_cast<Float>(excess);
  return bit_cast<Float>(sign | bit_cast<Word>(size));
}

template <typename Word, typename Float>
GR_INLINE Word narrow_float16(Float value) {
  const Word none{}, bits = bit_cast<Word>(value);
  const Word sign = (bits & 0x80000000u) >> 16, magnitude = bits & 0x7FFFFFFFu;
  // Compared as a number: SSE2 has no instruction for unsigned words.
  const Float size = bit_cast<Float>(magnitude), most = Float{} + 0x1p16f;  // which becomes infinity
  const Word clamped = bit_cast<Word>(size < most ? size : most);
  // 0xC8000000 takes 112 from the exponent's bias.
  const Word normal = (clamped + 0xC8000FFFu + ((clamped >> 13) & 1u)) >> 13;
  // Adding 1/2 leaves the subnormal's bits at the end of the sum, rounded by the addition.
  const Word subnormal = bit_cast<Word>(size + 0.5f) - 0x3F000000u;
  const Word quiet = ((magnitude >> 13) & 0x3FFu) | 0x7E00u;
  return sign | (size < 0x1p-14f ? subnormal : normal) | (value != value ? quiet : none);
}

GR_INLINE float widen(BFloat16 value) { return widen_bfloat16<float>(static_cast<uint32_t>(value.bits)); }

GR_INLINE void narrow(float value, BFloat16& out) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
#else
  out.bits = static_cast<uint16_t>(narrow_bfloat16<uint32_t>(value));
#endif
}

#if defined(__CUDACC__)
GR_INLINE float widen(Float16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}

GR_INLINE void narrow(float value, Float16& out) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value)); }
#elif defined(__aarch64__)  // which has instructions for it, for vectors too
GR_INLINE float widen(Float16 value) { return bit_cast<__fp16>(value); }
GR_INLINE void narrow(float value, Float16& out) { out = bit_cast<Float16>(static_cast<__fp16>(value)); }
#else
GR_INLINE float widen(Float16 value) { return widen_float16<float>(static_cast<uint32_t>(value.bits)); }
GR_INLINE void narrow(float value, Float16& out) { out.bits = static_cast<uint16_t>(narrow_float16<uint32_t>(value)); }
#endif

}  // namespace gan_regularizers
