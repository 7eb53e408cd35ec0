#pragma once

#include "bits.h"

struct __half {
  gan_regularizers::Float16 value;
};
inline float __half2float(__half x) { return gan_regularizers::widen(x.value); }
inline __half __float2half_rn(float x) {
  __half result;
  gan_regularizers::narrow(x, result.value);
  return result;
}
