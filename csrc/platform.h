// What differs between the compilers of the host and of the device.
#pragma once

#if defined(__CUDACC_RTC__)  // it has no headers of the standard library
using int32_t = int;
using int64_t = long long;
using uint8_t = unsigned char;
using uint16_t = unsigned short;
using uint32_t = unsigned int;
using uint64_t = unsigned long long;
using uintptr_t = unsigned long long;
#define INT32_MAX 2147483647
#else
#include <cstdint>
#endif

#if defined(__CUDACC__)
#define GR_INLINE __device__ __forceinline__
#define GR_CONSTEXPR __device__ constexpr
#else
#define GR_CONSTEXPR constexpr
#define GR_INLINE inline __attribute__((always_inline))
#endif

#if defined(__CUDACC__) || defined(__clang__)
#define GR_UNROLL _Pragma("unroll")
#else
#define GR_UNROLL _Pragma("GCC unroll 16")
#endif
