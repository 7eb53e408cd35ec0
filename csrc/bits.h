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

GR_INLINE float widen(BFloat16 value) { return bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

// Rounded to nearest, ties to even, as everywhere: what falls away is added to just under a half, or to a half where
// the bit that stays is odd.
GR_INLINE void narrow(float value, BFloat16& out) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
#else
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  out.bits = static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
#endif
}

#if defined(__CUDACC__)
GR_INLINE float widen(Float16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}

GR_INLINE void narrow(float value, Float16& out) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value)); }
#else
GR_INLINE float widen(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7FFFu) << 13;
  const uint32_t exponent = magnitude & 0x0F800000u;
  // The exponent's bias grows by 112; the highest exponent, of infinity and NaN, grows by 224 to be the highest again.
  const uint32_t normal = magnitude + (exponent == 0x0F800000u ? 0x70000000u : 0x38000000u);
  // A subnormal number is m 2^-24; with an exponent put in front it is 2^-14 + m 2^-24.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude + 0x38800000u) - 0x1p-14f);
  return bit_cast<float>(sign | (exponent == 0 ? subnormal : normal));
}

GR_INLINE void narrow(float value, Float16& out) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t sign = (bits & 0x80000000u) >> 16;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  // 0xC8000000 takes 112 from the exponent's bias.
  const uint32_t normal = (magnitude + 0xC8000FFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 1/2 leaves the subnormal's bits at the end of the sum, rounded by the addition.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
  const uint32_t overflow = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  out.bits = static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? overflow : finite));
}
#endif

}  // namespace gan_regularizers
