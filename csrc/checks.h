// What an entry point refuses, before any work.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "pass.h"

namespace gan_regularizers {

inline void refuse(const std::string& reason) { throw std::invalid_argument(reason); }

inline int64_t bytes_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::float16:
    case Dtype::bfloat16: return 2;
    case Dtype::float32: return 4;
    case Dtype::float64: return 8;
  }
  throw std::invalid_argument("dtype " + std::to_string(static_cast<int>(dtype)) + " is none of 0 to 3");
}

// The number of elements of a pass; 0 means that there is nothing to do.
inline int64_t checked_elements(const Pass& pass) {
  const int64_t element = bytes_of(pass.dtype);
  const struct {
    const char* name;
    int64_t size;
  } sides[] = {{"samples", pass.shape.samples},
               {"channels", pass.shape.channels},
               {"height", pass.shape.height},
               {"width", pass.shape.width}};
  bool empty = false;
  int64_t bytes = element;
  for (const auto& side : sides) {
    if (side.size < 0) refuse(std::string(side.name) + " is " + std::to_string(side.size) + "; a size is not negative");
    empty = empty || side.size == 0;
    if (side.size > 0 && __builtin_mul_overflow(bytes, side.size, &bytes)) refuse("the sizes overflow 64 bits");
  }
  if (!pass.parts.noise_std != !pass.parts.seed) refuse("noise_std and seed belong together; give both or neither");
  if (empty) return 0;
  const Picture& picture = pass.picture;
  if (picture.begin < 0 || picture.end > pass.shape.channels || picture.begin >= picture.end)
    refuse("the picture's channels are " + std::to_string(picture.begin) + " to " + std::to_string(picture.end) +
           ", half open; a sample has " + std::to_string(pass.shape.channels));
  if (!pass.input) refuse("the input is a null pointer");
  if (!pass.output) refuse("the output is a null pointer");
  const auto in = reinterpret_cast<uintptr_t>(pass.input), out = reinterpret_cast<uintptr_t>(pass.output);
  if (in % element || out % element) refuse("input or output is not aligned to its dtype");
  if (in < out + bytes && out < in + bytes) refuse("input and output overlap");
  return bytes / element;
}

// A pass with values for every channel.
inline void check_is_of_channels(const Pass& pass) {
  const Parts& parts = pass.parts;
  const Picture& picture = pass.picture;
  if (parts.brightness || parts.saturation || parts.contrast || parts.shift || parts.cutout)
    refuse("beside values for every channel there is another part");
  if (picture.begin != 0 || picture.end != pass.shape.channels)
    refuse("with values for every channel all of them are picture");
}

inline void check_row(const Draw& draw, int row) {
  if (row < 0 || row >= draw.word_rows) refuse("row " + std::to_string(row) + " is not one of the words'");
}

inline void check(const Draw& draw) {
  if (draw.samples < 0) refuse("samples is negative");
  for (int i = 0; i < draw.reals_drawn; ++i) check_row(draw, draw.real_row[i]);
  for (int i = 0; i < draw.integers_drawn; ++i) check_row(draw, draw.row[i]);
  if (draw.touched_row >= 0) check_row(draw, draw.touched_row);
  const bool looks_up = draw.gain_table || draw.noise_table || draw.given || draw.t_list;
  if (looks_up && draw.steps < 1) refuse("the tables are empty");
  if (draw.samples == 0) return;
  if (!draw.words) refuse("words is a null pointer");
  if ((draw.reals_drawn || looks_up) && !draw.reals) refuse("reals is a null pointer");
  if (draw.integers_drawn && !draw.integers) refuse("integers is a null pointer");
  if (!looks_up) return;
  if (!draw.gain_table || !draw.noise_table) refuse("a table is a null pointer");
  if (!draw.t) refuse("t is a null pointer");
  if (draw.given) return;
  check_row(draw, draw.entry_row);
  if (!draw.t_list) refuse("t_list is a null pointer");
  if (draw.length < 1 || (draw.length & (draw.length - 1))) refuse("the list's length is no power of two");
}

}  // namespace gan_regularizers
