// What the threads of the CPU (kernels_cpu.cpp) ask of the arithmetic for one instruction set (kernels_cpu_simd.cpp).
#pragma once

#include <array>
#include <cstdint>

#include "kernels.h"

namespace gan_regularizers {

// A sample is worked on in tiles that stay in the first-level cache: whole rows, or a part of one.
struct Tiling {
  int64_t rows, columns;            // of a tile
  int64_t row_tiles, column_tiles;  // of a sample
};

struct SimdKernels {
  // The sum over a tile of what the pass reads: of x forward, of the pixels that reach the output in the adjoint.
  double (*sum)(const Pass&, const Tiling&, int64_t sample, int64_t tile, void* scratch);
  void (*apply)(const Pass&, const Tiling&, int64_t sample, int64_t tile, double mu, void* scratch);
  // Of a pass with values for every channel, see channels_cpu_simd.h.
  void (*diffuse)(const Pass&, int64_t first_line, int64_t last_line, int64_t first_pixel, int64_t last_pixel);
  std::array<double, 4> (*normal_block)(uint64_t seed, uint64_t block);
};

constexpr int64_t cache_line = 64;    // bytes; scratch begins where one does
constexpr int64_t noise_slack = 256;  // normals come in whole vectors, several at once
constexpr int64_t sum_block = 32;     // columns that are summed together

// The room that the normals of a channel have, with those of its first block that belong to pixels before a tile.
constexpr int64_t noise_columns(int64_t tile) { return (tile + 31) / 16 * 16; }

// Bytes of scratch that a tile needs: normals and values of all channels, two masks of a row and its source.
constexpr int64_t scratch_bytes(const Shape& shape, const Tiling& tiling) {
  const int64_t tile = 2 * shape.channels * noise_columns(tiling.rows * tiling.columns) + noise_slack;
  return cache_line +
         static_cast<int64_t>(sizeof(double)) * (tile + 3 * shape.channels * (tiling.columns + sum_block) + 1);
}

// One for every instruction set, chosen when the program runs.
namespace baseline {
SimdKernels kernels(Dtype dtype);
}
namespace avx2 {
SimdKernels kernels(Dtype dtype);
}
namespace avx512 {
SimdKernels kernels(Dtype dtype);
}

}  // namespace gan_regularizers
