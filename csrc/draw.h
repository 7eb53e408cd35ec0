// What one sample draws, for host and device.
#pragma once

#include "pass.h"
#include "platform.h"

namespace gan_regularizers {

// The top 24 bits of a word as a uniform in [0, 1).
GR_INLINE float uniform_of(int64_t word) { return static_cast<float>(static_cast<uint64_t>(word) >> 40) * 0x1p-24f; }

// Not fused on a device, which would do so by itself: the same bits as on the CPU.
GR_INLINE float scaled(float uniform, float scale, float low) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(scale, uniform), low);
#else
  return scale * uniform + low;
#endif
}

GR_INLINE int64_t step_of(const Draw& draw, int64_t n) {
  if (draw.given) return draw.given[n];
  return draw.t_list[draw.words[draw.entry_row * draw.samples + n] & (draw.length - 1)];
}

GR_INLINE void draw_numbers(const Draw& draw, int64_t n) {
  const int64_t samples = draw.samples;
  const auto uniform = [&draw, samples, n](int row) { return uniform_of(draw.words[row * samples + n]); };
  const bool touched = draw.touched_row < 0 || uniform(draw.touched_row) < draw.p;
  for (int i = 0; i < draw.reals_drawn; ++i)
    draw.reals[i * samples + n] =
        touched ? scaled(uniform(draw.real_row[i]), draw.scale[i], draw.low[i]) : draw.neutral[i];
  for (int i = 0; i < draw.integers_drawn; ++i) {
    const float number = static_cast<float>(draw.count[i]) * uniform(draw.row[i]);
    draw.integers[n * draw.integers_drawn + i] = touched ? static_cast<int64_t>(number) + draw.offset[i] : 0;
  }
}

GR_INLINE void look_up_levels(const Draw& draw, int64_t n, int64_t step) {
  const int64_t samples = draw.samples;
  float* const levels = draw.reals + draw.reals_drawn * samples + n;
  levels[0] = draw.gain_table[step];
  levels[samples] = draw.noise_table[step];
  draw.t[n] = step;
}

// For a step that is one of the tables'.
GR_INLINE void draw_sample(const Draw& draw, int64_t n, int64_t step) {
  draw_numbers(draw, n);
  if (draw.gain_table) look_up_levels(draw, n, step);
}

}  // namespace gan_regularizers
