// The Python module _kernels_cpu: nothing but argument passing.

#include "bind.h"
#include "philox.h"

namespace py = pybind11;
using namespace gan_regularizers;

PYBIND11_MODULE(_kernels_cpu, module) {
  module.doc() = "CPU kernels; every address must stay valid during the call.";

  module.def("instruction_sets", cpu_instruction_sets, "What this machine runs, the preferred one last.");

  module.def(
      "transform",
      [](int dtype, const std::array<int64_t, 4>& shape, bool channels_last, Address input, Address output,
         bool adjoint, const std::array<Address, 8>& parts, int64_t shift_stride, int64_t cutout_stride,
         const std::array<int64_t, 2>& picture, double centre, int threads, int instruction_set) {
        const Pass pass = pass_of(dtype, shape, channels_last, input, output, adjoint, parts, shift_stride,
                                  cutout_stride, picture, centre);
        py::gil_scoped_release release;
        transform_cpu(pass, threads, instruction_set);
      },
      py::arg("dtype"), py::arg("shape"), py::arg("channels_last"), py::arg("input"), py::arg("output"),
      py::arg("adjoint"), py::arg("parts"), py::arg("shift_stride"), py::arg("cutout_stride"), py::arg("picture"),
      py::arg("centre"), py::arg("threads") = 1, py::arg("instruction_set") = -1);

  module.def(
      "draw",
      [](Address words, int64_t word_rows, int64_t samples, const Columns& columns, const Levels& levels,
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
