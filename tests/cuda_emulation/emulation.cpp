// The Python module _emulation: what a test asks of the emulated kernels beside the calls that _kernels_cuda has.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>

#include "kernels_cuda.cu"

namespace py = pybind11;
using namespace gan_regularizers;

PYBIND11_MODULE(_emulation, module) {
  module.def(
      "normal_block",
      [](int64_t seed, uint64_t block) {
        float normals[4];
        normal_block(static_cast<uint64_t>(seed), block, normals);
        return std::array<float, 4>{normals[0], normals[1], normals[2], normals[3]};
      },
      py::arg("seed"), py::arg("block"), "The normals of elements 4 block .. 4 block + 3.");

  module.def(
      "sum_of_halves",
      [](uintptr_t address, int64_t elements, int64_t begin, int64_t end) {
        Pass pass = {};
        pass.shape = {1, 1, 1, elements, false};
        pass.input = reinterpret_cast<const void*>(address);
        pass.picture.end = 1;
        const Divider one(1);
        blockDim.x = 1;
        threadIdx.x = 0;
        return partial_sum<false, __half>(pass, Divisors{one, one, one, one, one}, 0, begin, end);
      },
      py::arg("address"), py::arg("elements"), py::arg("begin"), py::arg("end"),
      "The sum of elements [begin, end) of a sample in float16.");

  module.def(
      "run_last_blocks", [](int64_t count) { emulation::last_blocks = count; }, py::arg("count"),
      "Of later launches only so many blocks run, those of the highest indices.");
}
