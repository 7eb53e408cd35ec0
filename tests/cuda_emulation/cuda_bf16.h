#pragma once

#include "bits.h"

struct __nv_bfloat16 {
  gan_regularizers::BFloat16 value;
};
inline float __bfloat162float(__nv_bfloat16 x) { return gan_regularizers::widen(x.value); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  __nv_bfloat16 result;
  gan_regularizers::narrow(x, result.value);
  return result;
}

struct __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) {
  return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
