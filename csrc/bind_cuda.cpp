// The Python module _kernels_cuda: nothing but argument passing.

#include "bind.h"

namespace py = pybind11;
using namespace gan_regularizers;

PYBIND11_MODULE(_kernels_cuda, module) {
  module.doc() = "CUDA kernels; every address is one on the device. They return before the device is done.";

  module.def(
      "workspace",
      [](int dtype, const std::array<int64_t, 4>& shape, bool channels_last, Address input, Address output,
         bool adjoint, const std::array<Address, 8>& parts, int64_t shift_stride, int64_t cutout_stride,
         const std::array<int64_t, 2>& picture, double centre) {
        return workspace_cuda(pass_of(dtype, shape, channels_last, input, output, adjoint, parts, shift_stride,
                                      cutout_stride, picture, centre));
      },
      py::arg("dtype"), py::arg("shape"), py::arg("channels_last"), py::arg("input"), py::arg("output"),
      py::arg("adjoint"), py::arg("parts"), py::arg("shift_stride"), py::arg("cutout_stride"), py::arg("picture"),
      py::arg("centre"), "The floats that transform needs as a workspace.");

  module.def(
      "transform",
      [](int dtype, const std::array<int64_t, 4>& shape, bool channels_last, Address input, Address output,
         bool adjoint, const std::array<Address, 8>& parts, int64_t shift_stride, int64_t cutout_stride,
         const std::array<int64_t, 2>& picture, double centre, Address workspace, int device, Address stream) {
        transform_cuda(pass_of(dtype, shape, channels_last, input, output, adjoint, parts, shift_stride, cutout_stride,
                               picture, centre),
                       pointer<float>(workspace), device, pointer<void>(stream));
      },
      py::arg("dtype"), py::arg("shape"), py::arg("channels_last"), py::arg("input"), py::arg("output"),
      py::arg("adjoint"), py::arg("parts"), py::arg("shift_stride"), py::arg("cutout_stride"), py::arg("picture"),
      py::arg("centre"), py::arg("workspace"), py::arg("device"), py::arg("stream"));

  module.def(
      "draw",
      [](Address words, int64_t word_rows, int64_t samples, const Columns& columns, const Levels& levels,
         const std::array<Address, 3>& outputs, int device, Address stream) {
        draw_cuda(draw_of(words, word_rows, samples, columns, levels, outputs), device, pointer<void>(stream));
      },
      py::arg("words"), py::arg("word_rows"), py::arg("samples"), py::arg("columns"), py::arg("levels"),
      py::arg("outputs"), py::arg("device"), py::arg("stream"));
}
