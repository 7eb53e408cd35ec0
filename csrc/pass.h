// What a pass and a draw are, for host and device: sizes and raw pointers, nothing of the standard library.
//
//     y = gain * mask . shift( k s (x - mu_pixel) + k (mu_pixel - mu) + mu + b ) + noise_std * normals
//
// per sample, about the centre of the range of values and on the channels that are picture, and its adjoint.
// docs/operator.md derives both.
#pragma once

#include "platform.h"

namespace gan_regularizers {

enum class Dtype : int { float16, bfloat16, float32, float64 };

// A batch [N, C, H, W], contiguous as it is, or in memory as [N, H, W, C].
struct Shape {
  int64_t samples, channels, height, width;
  bool channels_last;
};

// Pointers to one value per sample; null where a part is left out. Real values are double for float64 images and float
// for all others.
struct Parts {
  const void* brightness;
  const void* saturation;
  const void* contrast;
  const int64_t* shift;   // rows down, columns right
  const int64_t* cutout;  // the erased box: top, bottom, left, right, half open
  int64_t shift_stride;   // in elements, from sample to sample
  int64_t cutout_stride;
  const void* gain;
  const void* noise_std;
  const int64_t* seed;
};

// The channels [begin, end) that colour, gain and noise are for; shift and cutout are for all channels. All is done
// about the centre, which is also what a shift brings in and a cutout leaves.
struct Picture {
  int64_t begin, end;
  double centre;
};

// One pass over a batch. The adjoint takes a cotangent as its input; brightness, centre and noise have no part in it.
struct Pass {
  Dtype dtype;
  Shape shape;
  const void* input;
  void* output;
  Parts parts;
  Picture picture;
  bool adjoint;
};

// What one pass draws for N samples from rows of random 64-bit words [rows, N], and the noise levels of the samples.
// The top 24 bits of a word are a uniform in [0, 1).
struct Draw {
  static constexpr int max_columns = 16;
  const int64_t* words;
  int64_t word_rows, samples;
  // reals[i][n] = scale * uniform(words[real_row][n]) + low
  int reals_drawn, real_row[max_columns];
  float scale[max_columns], low[max_columns], neutral[max_columns];
  // integers[n][i] = floor(count * uniform(words[row][n])) + offset
  int integers_drawn, row[max_columns];
  int64_t count[max_columns], offset[max_columns];
  // Where uniform(words[touched_row][n]) is not below p, the reals are neutral and the integers 0. Negative: nowhere.
  int touched_row;
  float p;
  // t = given ? given[n] : t_list[words[entry_row][n] mod length], and two tables read at t, which are the last two
  // rows of the reals. Null tables: none of it.
  int entry_row;
  const int64_t* given;
  const int64_t* t_list;
  const float* gain_table;
  const float* noise_table;
  int64_t length;  // of t_list, a power of two
  int64_t steps;   // of the tables
  float* reals;
  int64_t* integers;
  int64_t* t;
};

}  // namespace gan_regularizers
