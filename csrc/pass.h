// What a pass, a draw and a look-up are, for host and device: sizes and raw pointers, nothing of the standard library.
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

// A draw for N samples from rows of random 64-bit words [rows, N]. The top 24 bits of a word are a uniform in [0, 1).
struct Draw {
  static constexpr int max_columns = 16;
  const int64_t* words;
  int64_t word_rows, samples;
  int real_rows, integer_columns;
  // reals[row][n] = scale * uniform(words[row][n]) + low
  float scale[max_columns], low[max_columns];
  // integers[n][column] = floor(count * uniform(words[source][n])) + offset
  int source[max_columns];
  int64_t count[max_columns], offset[max_columns];
  float* reals;
  int64_t* integers;
};

// The noise levels of N samples: t = given ? given[n] : t_list[words[n] mod length], and two tables read at t.
struct LookUp {
  const int64_t* words;
  const int64_t* given;
  int64_t samples;
  const int64_t* t_list;
  int64_t length;  // of t_list, a power of two
  const float* gain_table;
  const float* noise_table;
  int64_t steps;  // of the tables
  int64_t* t;
  float* gain;
  float* noise_std;
};

}  // namespace gan_regularizers
