// Calls one pass of the CPU kernels several times and prints the seconds of each call:
//
//     passes INSTRUCTION_SET DTYPE LAYOUT N C H W THREADS CALLS PART...
//
// INSTRUCTION_SET is best, or the name of one; a PART may be adjoint or per_channel, too. What the program does besides
// is the same for any number of calls, so a difference of two runs has the instructions of passes alone.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <set>
#include <string>
#include <vector>

#include "bits.h"
#include "kernels.h"

using namespace gan_regularizers;

namespace {

using Transform = void (*)(const Pass&, int threads, int instruction_set);

Transform transform_of(bool per_channel) {
#if __has_include("channels_cpu_simd.h")
  if (per_channel) return transform_channels_cpu;
#endif
  return per_channel ? nullptr : transform_cpu;
}

int index_of(const std::string& instruction_set) {
  const std::vector<std::string> names = cpu_instruction_sets();
  const auto found = std::find(names.begin(), names.end(), instruction_set);
  return found == names.end() ? -1 : static_cast<int>(found - names.begin());
}

void put(float value, float& out) { out = value; }
void put(float value, Float16& out) { narrow(value, out); }
void put(float value, BFloat16& out) { narrow(value, out); }

template <typename T>
void call(Pass pass, Transform transform, int threads, int instruction_set, int calls) {
  const Shape& shape = pass.shape;
  const int64_t elements = shape.samples * shape.channels * shape.height * shape.width;
  constexpr int64_t alignment = 64;  // that of torch's memory, in bytes
  std::vector<T> memory(static_cast<size_t>(2 * elements + 2 * alignment));
  T* const input = memory.data() + alignment - reinterpret_cast<uintptr_t>(memory.data()) % alignment / sizeof(T);
  for (int64_t i = 0; i < elements; ++i) put(static_cast<float>(i % 509 - 254) / 256, input[i]);
  pass.input = input;
  pass.output = input + (elements + alignment - 1) / alignment * alignment;
  for (int done = 0; done < calls; ++done) {
    const auto begin = std::chrono::steady_clock::now();
    transform(pass, threads, instruction_set);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    std::printf("%.9f\n", taken.count());
  }
}

}  // namespace

int main(int count, char** given) {
  const std::vector<std::string> words(given + 1, given + count);
  const std::set<std::string> parts(words.begin() + 9, words.end());
  const auto has = [&](const char* part) { return parts.count(part) > 0; };
  const Shape shape = {std::stoll(words[3]), std::stoll(words[4]), std::stoll(words[5]), std::stoll(words[6]),
                       words[2] == "channels_last"};
  const Transform transform = transform_of(has("per_channel"));
  const int instruction_set = index_of(words[0]);
  if (!transform || (instruction_set < 0 && words[0] != "best")) return 1;

  // A frame that is moved by a sixteenth of its sides and has lost a quarter of its area.
  const int64_t h = shape.height, w = shape.width;
  const size_t rows = static_cast<size_t>(shape.samples * (has("per_channel") ? shape.channels : 1));
  const std::vector<float> brightness(rows, 0.25f), saturation(rows, 1.5f), contrast(rows, 0.75f), gain(rows, 0.875f),
      noise_std(rows, 0.125f);
  std::vector<int64_t> shift, cutout, seed;
  for (size_t i = 0; i < rows; ++i) {
    shift.insert(shift.end(), {h / 16, -w / 16});
    cutout.insert(cutout.end(), {h / 4, h / 4 + h / 2, w / 3, w / 3 + w / 2});
    seed.push_back(static_cast<int64_t>(i));
  }
  const auto given_if = [&](const char* part, const auto& values) { return has(part) ? values.data() : nullptr; };
  const Parts pointers = {given_if("brightness", brightness),
                          given_if("saturation", saturation),
                          given_if("contrast", contrast),
                          given_if("shift", shift),
                          given_if("cutout", cutout),
                          2,
                          4,
                          given_if("gain", gain),
                          given_if("noise", noise_std),
                          given_if("noise", seed)};
  Pass pass = {Dtype::float32, shape, nullptr, nullptr, pointers, {0, shape.channels, 0.0}, has("adjoint")};
  const int threads = std::stoi(words[7]), calls = std::stoi(words[8]);
  if (words[1] == "float16") {
    pass.dtype = Dtype::float16;
    call<Float16>(pass, transform, threads, instruction_set, calls);
  } else if (words[1] == "bfloat16") {
    pass.dtype = Dtype::bfloat16;
    call<BFloat16>(pass, transform, threads, instruction_set, calls);
  } else {
    call<float>(pass, transform, threads, instruction_set, calls);
  }
}
