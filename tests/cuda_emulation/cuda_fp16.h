#pragma once

#include "bits.h"
#include "cuda_runtime.h"

struct __half {
  gan_regularizers::Float16 value;
};
inline float __half2float(__half x) { return gan_regularizers::widen(x.value); }
inline __half __float2half_rn(float x) {
  __half result;
  gan_regularizers::narrow(x, result.value);
  return result;
}

struct __half2 {
  __half x, y;
};
inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
inline float2 __half22float2(__half2 pair) { return {__half2float(pair.x), __half2float(pair.y)}; }
