// Arguments of both Python modules: sizes and addresses as integers, 0 for a null pointer.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <tuple>
#include <vector>

#include "checks.h"
#include "kernels.h"

namespace gan_regularizers {

using Address = uintptr_t;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

inline Pass pass_of(int dtype, const std::array<int64_t, 4>& shape, bool channels_last, Address input, Address output,
                    bool adjoint, const std::array<Address, 8>& parts, int64_t shift_stride, int64_t cutout_stride,
                    const std::array<int64_t, 2>& picture, double centre) {
  Pass pass;
  pass.dtype = static_cast<Dtype>(dtype);
  pass.shape = {shape[0], shape[1], shape[2], shape[3], channels_last};
  pass.input = pointer<const void>(input);
  pass.output = pointer<void>(output);
  pass.adjoint = adjoint;
  pass.parts = {pointer<const void>(parts[0]),
                pointer<const void>(parts[1]),
                pointer<const void>(parts[2]),
                pointer<const int64_t>(parts[3]),
                pointer<const int64_t>(parts[4]),
                shift_stride,
                cutout_stride,
                pointer<const void>(parts[5]),
                pointer<const void>(parts[6]),
                pointer<const int64_t>(parts[7])};
  pass.picture = {picture[0], picture[1], centre};
  return pass;
}

// real_row, scale, low, neutral; row, count, offset; touched_row and p.
using Columns = std::tuple<std::vector<int>, std::vector<float>, std::vector<float>, std::vector<float>,
                           std::vector<int>, std::vector<int64_t>, std::vector<int64_t>, int, float>;
// entry_row; given, t_list and the two tables; the lengths of the list and of the tables.
using Levels = std::tuple<int, Address, Address, Address, Address, int64_t, int64_t>;

template <typename T>
void put(T (&to)[Draw::max_columns], const std::vector<T>& from, int count) {
  if (from.size() != static_cast<size_t>(count)) refuse("columns differ in length");
  for (int i = 0; i < count; ++i) to[i] = from[i];
}

// outputs: reals, integers and t.
inline Draw draw_of(Address words, int64_t word_rows, int64_t samples, const Columns& columns, const Levels& levels,
                    const std::array<Address, 3>& outputs) {
  const auto& [real_row, scale, low, neutral, row, count, offset, touched_row, p] = columns;
  const auto& [entry_row, given, t_list, gain_table, noise_table, length, steps] = levels;
  if (real_row.size() > Draw::max_columns || row.size() > Draw::max_columns)
    refuse("a draw has at most 16 reals and 16 integers");
  Draw draw = {};
  draw.words = pointer<const int64_t>(words);
  draw.word_rows = word_rows;
  draw.samples = samples;
  draw.reals_drawn = static_cast<int>(real_row.size());
  put(draw.real_row, real_row, draw.reals_drawn);
  put(draw.scale, scale, draw.reals_drawn);
  put(draw.low, low, draw.reals_drawn);
  put(draw.neutral, neutral, draw.reals_drawn);
  draw.integers_drawn = static_cast<int>(row.size());
  put(draw.row, row, draw.integers_drawn);
  put(draw.count, count, draw.integers_drawn);
  put(draw.offset, offset, draw.integers_drawn);
  draw.touched_row = touched_row;
  draw.p = p;
  draw.entry_row = entry_row;
  draw.given = pointer<const int64_t>(given);
  draw.t_list = pointer<const int64_t>(t_list);
  draw.gain_table = pointer<const float>(gain_table);
  draw.noise_table = pointer<const float>(noise_table);
  draw.length = length;
  draw.steps = steps;
  draw.reals = pointer<float>(outputs[0]);
  draw.integers = pointer<int64_t>(outputs[1]);
  draw.t = pointer<int64_t>(outputs[2]);
  return draw;
}

}  // namespace gan_regularizers
