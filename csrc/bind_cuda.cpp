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
      [](Address words, int64_t word_rows, int64_t samples, const std::vector<float>& scale,
         const std::vector<float>& low, const std::vector<int>& source, const std::vector<int64_t>& count,
         const std::vector<int64_t>& offset, Address reals, Address integers, int device, Address stream) {
        draw_cuda(draw_of(words, word_rows, samples, scale, low, source, count, offset, reals, integers), device,
                  pointer<void>(stream));
      },
      py::arg("words"), py::arg("word_rows"), py::arg("samples"), py::arg("scale"), py::arg("low"), py::arg("source"),
      py::arg("count"), py::arg("offset"), py::arg("reals"), py::arg("integers"), py::arg("device"), py::arg("stream"));

  module.def(
      "look_up",
      [](Address words, Address given, int64_t samples, Address t_list, int64_t length, Address gain_table,
         Address noise_table, int64_t steps, Address t, Address gain, Address noise_std, int device, Address stream) {
        look_up_cuda(
            look_up_of(words, given, samples, t_list, length, gain_table, noise_table, steps, t, gain, noise_std),
            device, pointer<void>(stream));
      },
      py::arg("words"), py::arg("given"), py::arg("samples"), py::arg("t_list"), py::arg("length"),
      py::arg("gain_table"), py::arg("noise_table"), py::arg("steps"), py::arg("t"), py::arg("gain"),
      py::arg("noise_std"), py::arg("device"), py::arg("stream"));
}
