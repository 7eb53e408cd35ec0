// The Python module _kernels: nothing but argument passing. Sizes and addresses are integers, 0 a null pointer.

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "checks.h"
#include "kernels.h"
#include "philox.h"

namespace py = pybind11;
using namespace gan_regularizers;

namespace {

using Address = uintptr_t;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

Pass pass_of(int dtype, const std::array<int64_t, 4>& shape, bool channels_last, Address input, Address output,
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

// entry_row; given, t_list and the two tables; the lengths of the list and of the tables.
using Levels = std::tuple<int, Address, Address, Address, Address, int64_t, int64_t>;

template <typename T>
void put(T (&to)[Draw::max_columns], const std::vector<T>& from, int count) {
  if (from.size() != static_cast<size_t>(count)) refuse("columns differ in length");
  for (int i = 0; i < count; ++i) to[i] = from[i];
}

// A draw without its memory. It is kept from call to call: to read so many lists would take longer than a small draw.
Draw columns_of(const std::vector<int>& real_row, const std::vector<float>& scale, const std::vector<float>& low,
                const std::vector<float>& neutral, const std::vector<int>& row, const std::vector<int64_t>& count,
                const std::vector<int64_t>& offset, int touched_row, float p) {
  if (real_row.size() > Draw::max_columns || row.size() > Draw::max_columns)
    refuse("a draw has at most 16 reals and 16 integers");
  Draw draw = {};
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
  return draw;
}

// outputs: reals, integers and t.
Draw draw_of(Address words, int64_t word_rows, int64_t samples, const Draw& columns, const Levels& levels,
             const std::array<Address, 3>& outputs) {
  const auto& [entry_row, given, t_list, gain_table, noise_table, length, steps] = levels;
  Draw draw = columns;
  draw.words = pointer<const int64_t>(words);
  draw.word_rows = word_rows;
  draw.samples = samples;
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

void bind_cpu(py::module_ module) {
  module.doc() = "CPU kernels; every address must stay valid during the call.";

  module.def("instruction_sets", cpu_instruction_sets, "What this machine runs, the preferred one last.");

  module.def(
      "transform",
      [](int dtype, const std::array<int64_t, 4>& shape, bool channels_last, Address input, Address output,
         bool adjoint, const std::array<Address, 8>& parts, int64_t shift_stride, int64_t cutout_stride,
         const std::array<int64_t, 2>& picture, double centre, int threads, int instruction_set, bool per_channel) {
        const Pass pass = pass_of(dtype, shape, channels_last, input, output, adjoint, parts, shift_stride,
                                  cutout_stride, picture, centre);
        const py::gil_scoped_release release;
        (per_channel ? transform_channels_cpu : transform_cpu)(pass, threads, instruction_set);
      },
      py::arg("dtype"), py::arg("shape"), py::arg("channels_last"), py::arg("input"), py::arg("output"),
      py::arg("adjoint"), py::arg("parts"), py::arg("shift_stride"), py::arg("cutout_stride"), py::arg("picture"),
      py::arg("centre"), py::arg("threads") = 1, py::arg("instruction_set") = -1, py::arg("per_channel") = false,
      "per_channel: gain, noise_std and seed are [N, C], and there is no other part.");

  module.def(
      "draw",
      [](Address words, int64_t word_rows, int64_t samples, const Draw& columns, const Levels& levels,
         const std::array<Address, 3>& outputs) {
        draw_cpu(draw_of(words, word_rows, samples, columns, levels, outputs));
      },
      py::arg("words"), py::arg("word_rows"), py::arg("samples"), py::arg("columns"), py::arg("levels"),
      py::arg("outputs"));

  module.def(
      "philox_4x32",
      [](const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
        uint32_t words[4] = {counter[0], counter[1], counter[2], counter[3]};
        philox_4x32<uint32_t, multiply_words>(words, key[0], key[1]);
        return std::array<uint32_t, 4>{words[0], words[1], words[2], words[3]};
      },
      py::arg("counter"), py::arg("key"), "The four words of a counter under a key, for the known answers.");

  module.def(
      "normal_block",
      [](int64_t seed, uint64_t block, int dtype, int instruction_set) {
        return normal_block_cpu(static_cast<uint64_t>(seed), block, static_cast<Dtype>(dtype), instruction_set);
      },
      py::arg("seed"), py::arg("block"), py::arg("dtype"), py::arg("instruction_set") = -1,
      "The normals of elements 4 block .. 4 block + 3, for the known answers.");
}

void bind_cuda(py::module_ module) {
  module.doc() = "CUDA kernels; every address is one on the device. They return before the device is done.";

  // Kept for ever, as the function of set_images is: when the program ends they may go after Python.
  const auto transient = new py::object(py::reinterpret_steal<py::object>(
      PyErr_NewExceptionWithDoc("gan_regularizers.kernels._kernels.cuda.TransientError",
                                "What the driver refuses now and may not refuse later.", PyExc_RuntimeError, nullptr)));
  module.attr("TransientError") = *transient;

  module.def("open_driver", open_cuda_driver, py::arg("library"), py::call_guard<py::gil_scoped_release>(),
             "Open the driver by the name of its library; returns its version, such as 13000.");

  module.def(
      "kernels",
      [] {
        py::dict all;
        for (const auto& [name, line] : cuda_kernels()) all[py::str(name)] = line;
        return all;
      },
      "Every kernel's name, and the line that makes it after kernels_cuda.cu.");

  module.def(
      "set_images",
      [](py::function images) {
        const auto kept = new py::function(std::move(images));
        set_cuda_images([kept](const std::string& kernel, int device) {
          const py::gil_scoped_acquire acquire;
          return static_cast<std::string>((*kept)(kernel, device).cast<py::bytes>());
        });
      },
      py::arg("images"), "images(kernel, device): the cubin of a kernel, as bytes, for the first launch on a device.");

  module.def(
      "load",
      [transient](const std::string& kernel, int device) {
        try {
          const py::gil_scoped_release release;
          load_cuda(kernel, device);
        } catch (const TransientError& error) {
          PyErr_SetString(transient->ptr(), error.what());
          throw py::error_already_set();
        }
      },
      py::arg("kernel"), py::arg("device"),
      "Load a kernel before its first launch; TransientError where that may pass.");

  module.def(
      "transform",
      [](int dtype, const std::array<int64_t, 4>& shape, bool channels_last, Address input, Address output,
         bool adjoint, const std::array<Address, 8>& parts, int64_t shift_stride, int64_t cutout_stride,
         const std::array<int64_t, 2>& picture, double centre, const std::function<Address(int64_t)>& workspace,
         int device, Address stream) {
        const Pass pass = pass_of(dtype, shape, channels_last, input, output, adjoint, parts, shift_stride,
                                  cutout_stride, picture, centre);
        const py::gil_scoped_release release;
        const auto on_device = [&](int64_t floats) { return pointer<float>(workspace(floats)); };
        transform_cuda(pass, on_device, device, pointer<void>(stream));
      },
      py::arg("dtype"), py::arg("shape"), py::arg("channels_last"), py::arg("input"), py::arg("output"),
      py::arg("adjoint"), py::arg("parts"), py::arg("shift_stride"), py::arg("cutout_stride"), py::arg("picture"),
      py::arg("centre"), py::arg("workspace"), py::arg("device"), py::arg("stream"),
      "workspace: a function of a number of floats that returns the address of so many, which live until the pass is "
      "launched.");

  module.def(
      "draw",
      [](Address words, int64_t word_rows, int64_t samples, const Draw& columns, const Levels& levels,
         const std::array<Address, 3>& outputs, int device, Address stream) {
        const Draw draw = draw_of(words, word_rows, samples, columns, levels, outputs);
        const py::gil_scoped_release release;
        draw_cuda(draw, device, pointer<void>(stream));
      },
      py::arg("words"), py::arg("word_rows"), py::arg("samples"), py::arg("columns"), py::arg("levels"),
      py::arg("outputs"), py::arg("device"), py::arg("stream"));
}

}  // namespace

PYBIND11_MODULE(_kernels, module) {
  const auto columns =
      py::class_<Draw>(module, "Columns", py::module_local(), "What a draw makes of words.")
          .def(py::init(&columns_of), py::arg("real_row"), py::arg("scale"), py::arg("low"), py::arg("neutral"),
               py::arg("row"), py::arg("count"), py::arg("offset"), py::arg("touched_row"), py::arg("p"));
  py::module_ cpu = module.def_submodule("cpu"), cuda = module.def_submodule("cuda");
  cpu.attr("Columns") = columns;
  cuda.attr("Columns") = columns;
  bind_cpu(cpu);
  bind_cuda(cuda);
}
