// Arguments of both Python modules: sizes and addresses as integers, 0 for a null pointer.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
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

inline Draw draw_of(Address words, int64_t word_rows, int64_t samples, const std::vector<float>& scale,
                    const std::vector<float>& low, const std::vector<int>& source, const std::vector<int64_t>& count,
                    const std::vector<int64_t>& offset, Address reals, Address integers) {
  const size_t rows = scale.size(), columns = source.size();
  if (low.size() != rows) refuse("scale and low differ in length");
  if (count.size() != columns || offset.size() != columns) refuse("source, count and offset differ in length");
  if (rows > Draw::max_columns || columns > Draw::max_columns) refuse("a draw has at most 16 rows and 16 columns");
  Draw draw = {};
  draw.words = pointer<const int64_t>(words);
  draw.word_rows = word_rows;
  draw.samples = samples;
  draw.real_rows = static_cast<int>(rows);
  draw.integer_columns = static_cast<int>(columns);
  for (size_t row = 0; row < rows; ++row) {
    draw.scale[row] = scale[row];
    draw.low[row] = low[row];
  }
  for (size_t column = 0; column < columns; ++column) {
    draw.source[column] = source[column];
    draw.count[column] = count[column];
    draw.offset[column] = offset[column];
  }
  draw.reals = pointer<float>(reals);
  draw.integers = pointer<int64_t>(integers);
  return draw;
}

inline LookUp look_up_of(Address words, Address given, int64_t samples, Address t_list, int64_t length,
                         Address gain_table, Address noise_table, int64_t steps, Address t, Address gain,
                         Address noise_std) {
  return {pointer<const int64_t>(words),
          pointer<const int64_t>(given),
          samples,
          pointer<const int64_t>(t_list),
          length,
          pointer<const float>(gain_table),
          pointer<const float>(noise_table),
          steps,
          pointer<int64_t>(t),
          pointer<float>(gain),
          pointer<float>(noise_std)};
}

}  // namespace gan_regularizers
