// What differs between the compilers of the host and of the device.
#pragma once

#if defined(__CUDACC__)
#define GR_INLINE __host__ __device__ __forceinline__
#else
#define GR_INLINE inline __attribute__((always_inline))
#endif

#if defined(__CUDACC__) || defined(__clang__)
#define GR_UNROLL _Pragma("unroll")
#else
#define GR_UNROLL _Pragma("GCC unroll 16")
#endif
