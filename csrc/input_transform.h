// The per-sample mathematics of a pass, forward and adjoint, for host and device.
//
// Forward and adjoint are one map on different windows. With source = target - shift, M the mask of a target pixel and
// u = M . x(source),
//
//     forward   y = M (scale x + pixel_weight mean_c x + constant) + (1 - M) centre + noise_std eps,   mu = mean of x
//     adjoint   y =    scale u + pixel_weight mean_c u + constant,                                     mu = mean of u
//
// where the adjoint's shift is the forward's reversed and its box the forward's, moved along with it. Means are over
// the channels that are picture; the others are y = M x + (1 - M) centre, in the adjoint y = u.
#pragma once

#include "pass.h"
#include "platform.h"

namespace gan_regularizers {

template <typename Int>
GR_INLINE Int clamp(int64_t value, int64_t low, int64_t high) {
  return static_cast<Int>(value < low ? low : value > high ? high : value);
}

// The target pixels of one sample that have a source: rows [row_begin, row_end) and columns [column_begin, column_end)
// without the box.
template <typename Int>
struct Window {
  Int down, right;  // source = target - (down, right)
  Int row_begin, row_end, column_begin, column_end;
  Int top, bottom, left, right_edge;

  GR_INLINE bool holds(Int row, Int column) const {
    const bool in_frame = row >= row_begin && row < row_end && column >= column_begin && column < column_end;
    return in_frame && !(row >= top && row < bottom && column >= left && column < right_edge);
  }
};

template <typename Int>
GR_INLINE Window<Int> whole_frame(const Shape& shape) {
  return {0, 0, 0, static_cast<Int>(shape.height), 0, static_cast<Int>(shape.width), 0, 0, 0, 0};
}

template <typename Int>
GR_INLINE Window<Int> window_of(const Pass& pass, int64_t sample) {
  const int64_t height = pass.shape.height, width = pass.shape.width;
  Window<Int> window = whole_frame<Int>(pass.shape);
  if (pass.parts.shift) {
    const int64_t* shift = pass.parts.shift + sample * pass.parts.shift_stride;
    // A shift by the whole side already leaves nothing.
    window.down = clamp<Int>(shift[0], -height, height);
    window.right = clamp<Int>(shift[1], -width, width);
    if (pass.adjoint) {
      window.down = -window.down;
      window.right = -window.right;
    }
    window.row_begin = clamp<Int>(window.down, 0, height);
    window.row_end = clamp<Int>(height + window.down, 0, height);
    window.column_begin = clamp<Int>(window.right, 0, width);
    window.column_end = clamp<Int>(width + window.right, 0, width);
  }
  if (pass.parts.cutout) {
    const int64_t* box = pass.parts.cutout + sample * pass.parts.cutout_stride;
    const Int down = pass.adjoint ? window.down : 0, right = pass.adjoint ? window.right : 0;
    window.top = clamp<Int>(box[0], 0, height) + down;
    window.bottom = clamp<Int>(box[1], 0, height) + down;
    window.left = clamp<Int>(box[2], 0, width) + right;
    window.right_edge = clamp<Int>(box[3], 0, width) + right;
  }
  return window;
}

GR_INLINE int64_t picture_channels(const Pass& pass) { return pass.picture.end - pass.picture.begin; }

GR_INLINE bool is_picture(const Pass& pass, int64_t channel) {
  return channel >= pass.picture.begin && channel < pass.picture.end;
}

// Whether the channels of a pixel mix. One channel is its own mean, which saturation keeps.
GR_INLINE bool mixes_channels(const Pass& pass) { return pass.parts.saturation && picture_channels(pass) > 1; }

// The coefficients of one sample.
template <typename Real>
struct Coefficients {
  Real scale, pixel_weight, constant, noise_std;
  Real outside, beside;  // what comes where M is 0: in the picture's channels, and in the others
};

template <typename Real>
GR_INLINE Real value_or(const void* values, int64_t sample, Real otherwise) {
  return values ? static_cast<const Real*>(values)[sample] : otherwise;
}

// mu: the sample's mean, read only where there is a contrast.
template <typename Real>
GR_INLINE Coefficients<Real> coefficients_of(const Pass& pass, int64_t sample, Real mu) {
  const Parts& parts = pass.parts;
  const Real gain = value_or(parts.gain, sample, Real(1));
  const Real saturation = mixes_channels(pass) ? value_or(parts.saturation, sample, Real(1)) : Real(1);
  const Real contrast = value_or(parts.contrast, sample, Real(1));
  const Real centre = pass.adjoint ? Real(0) : static_cast<Real>(pass.picture.centre);
  Real constant = pass.adjoint ? Real(0) : value_or(parts.brightness, sample, Real(0));
  if (parts.contrast) constant += (Real(1) - contrast) * mu;
  constant *= gain;
  if (centre != Real(0)) constant += (Real(1) - gain) * centre;
  return {gain * contrast * saturation,
          gain * contrast * (Real(1) - saturation),
          constant,
          pass.adjoint ? Real(0) : value_or(parts.noise_std, sample, Real(0)),
          pass.adjoint ? constant : centre,
          centre};
}

}  // namespace gan_regularizers
