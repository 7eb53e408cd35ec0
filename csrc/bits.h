// The bits of floating-point numbers on the host, and half precision, which the host's compilers lack. All is
// branch-free, so loops over it vectorise.
#pragma once

#include <cstdint>
#include <cstring>

#include "platform.h"

namespace gan_regularizers {

GR_INLINE float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

GR_INLINE uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

GR_INLINE double double_of_bits(uint64_t bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

GR_INLINE uint64_t bits_of_double(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Half precision as its bits.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

GR_INLINE float widen(BFloat16 value) { return float_of_bits(static_cast<uint32_t>(value.bits) << 16); }

GR_INLINE float widen(Float16 value) {
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  const uint32_t magnitude = static_cast<uint32_t>(value.bits & 0x7FFFu) << 13;
  const uint32_t exponent = magnitude & 0x0F800000u;
  const uint32_t normal = magnitude + (exponent == 0x0F800000u ? 0x70000000u : 0x38000000u);  // infinite, NaN: twice
  const uint32_t subnormal = bits_of_float(float_of_bits(magnitude + 0x38800000u) - 0x1p-14f);
  return float_of_bits(sign | (exponent == 0 ? subnormal : normal));
}

// Rounded to nearest, ties to even, as everywhere.
GR_INLINE void narrow(float value, BFloat16& out) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet = (bits >> 16) | 0x40u;
  out.bits = static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet : rounded);
}

GR_INLINE void narrow(float value, Float16& out) {
  const uint32_t bits = bits_of_float(value);
  const uint32_t sign = (bits & 0x80000000u) >> 16;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t normal = (magnitude + 0xC8000FFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Adding 1/2 leaves the subnormal's bits at the end of the sum, rounded by the addition.
  const uint32_t subnormal = bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3F000000u;
  const uint32_t overflow = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  out.bits = static_cast<uint16_t>(sign | (magnitude >= 0x47800000u ? overflow : finite));
}

}  // namespace gan_regularizers
