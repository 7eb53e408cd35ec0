// Which instruction sets of x86-64 this machine and its operating system run. The compilers' own __builtin_cpu_supports
// needs their own library: with another one, such as Zig's, it is false for all.
#pragma once

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>

#include <cstdint>

namespace gan_regularizers {

struct CpuFeatures {
  bool avx2 = false;    // with the conversions of half precision
  bool avx512 = false;  // the foundation with bytes and words, double words and quad words, and vector lengths

  CpuFeatures() {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return;
    const bool converts_halves = c & bit_F16C;
    unsigned saved, high;  // the registers that the operating system keeps for a thread
    __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    constexpr unsigned vectors = 0x6, all_vectors = 0xE6;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
    constexpr unsigned avx512_bits = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    avx2 = (saved & vectors) == vectors && (b & bit_AVX2) && converts_halves;
    avx512 = (saved & all_vectors) == all_vectors && (b & avx512_bits) == avx512_bits;
  }
};

}  // namespace gan_regularizers
#endif
