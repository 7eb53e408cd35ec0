// Prints a digest of what the CPU kernels compute, line by line, for a comparison of compilers and machines. Inputs are
// made of whole numbers, so they are the same everywhere.

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "bits.h"
#include "kernels.h"

using namespace gan_regularizers;

namespace {

// FNV-1a.
struct Digest {
  uint64_t value = 0xCBF29CE484222325u;
  void add(const void* data, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) value = (value ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001B3u;
  }
  template <typename T>
  void add(const std::vector<T>& values) {
    add(values.data(), values.size() * sizeof(T));
  }
};

// SplitMix64.
uint64_t state = 1;
uint64_t word() {
  uint64_t z = state += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return z ^ z >> 31;
}
int64_t whole(int64_t low, int64_t high) { return low + static_cast<int64_t>(word() % (high - low)); }
// In [-2, 2), in steps that every dtype has.
double real() { return static_cast<double>(whole(-512, 512)) / 256; }

template <typename Real>
std::vector<Real> reals(int64_t count) {
  std::vector<Real> values(count);
  for (Real& value : values) value = static_cast<Real>(real());
  return values;
}

void put(double value, double& out) { out = value; }
void put(double value, float& out) { out = static_cast<float>(value); }
void put(double value, Float16& out) { narrow(static_cast<float>(value), out); }
void put(double value, BFloat16& out) { narrow(static_cast<float>(value), out); }

enum Part { brightness = 1, saturation = 2, contrast = 4, shift = 8, cutout = 16, gain = 32, noise = 64, all = 127 };

template <typename T, typename Real>
void pass(Digest& digest, Dtype dtype, Shape shape, int parts, Picture picture, bool adjoint, int threads) {
  const int64_t n = shape.samples, elements = n * shape.channels * shape.height * shape.width;
  std::vector<T> input(elements), output(elements);
  for (T& value : input) put(real(), value);
  const std::vector<Real> b = reals<Real>(n), s = reals<Real>(n), k = reals<Real>(n), g = reals<Real>(n),
                          deviation = reals<Real>(n);
  std::vector<int64_t> shifts, boxes, seeds;
  for (int64_t i = 0; i < n; ++i) {
    for (const int64_t side : {shape.height, shape.width}) {
      shifts.push_back(whole(-side, side + 1));
      const int64_t begin = whole(-1, side + 1);
      boxes.insert(boxes.end(), {begin, begin + whole(0, side + 1)});
    }
    seeds.push_back(static_cast<int64_t>(word()));
  }
  const auto given = [parts](int part, const auto& values) { return parts & part ? values.data() : nullptr; };
  const Parts pointers = {given(brightness, b),
                          given(saturation, s),
                          given(contrast, k),
                          given(shift, shifts),
                          given(cutout, boxes),
                          2,
                          4,
                          given(gain, g),
                          given(noise, deviation),
                          given(noise, seeds)};
  const Pass pass = {dtype, shape, input.data(), output.data(), pointers, picture, adjoint};
  transform_cpu(pass, threads, -1);
  digest.add(output);
}

// Feature maps with values for every channel, half of them clean.
template <typename T, typename Real>
void channels(const char* name, Dtype dtype) {
  Digest digest;
  const Shape shapes[] = {{3, 70, 1, 1, true}, {2, 600, 3, 3, true}, {5, 33, 7, 7, true}, {1, 3, 30, 40, true}};
  for (const Shape& last : shapes)
    for (const bool is_last : {true, false})
      for (const bool adjoint : {false, true}) {
        Shape shape = last;
        shape.channels_last = is_last;
        const int64_t rows = shape.samples * shape.channels, elements = rows * shape.height * shape.width;
        std::vector<T> input(elements), output(elements);
        for (T& value : input) put(real(), value);
        std::vector<Real> gain = reals<Real>(rows), deviation = reals<Real>(rows);
        std::vector<int64_t> seeds(rows);
        for (int64_t i = 0; i < rows; ++i) {
          if (word() & 1) gain[i] = 1, deviation[i] = 0;
          seeds[i] = static_cast<int64_t>(word());
        }
        Parts parts = {};
        parts.gain = gain.data();
        parts.noise_std = deviation.data();
        parts.seed = seeds.data();
        const Pass pass = {dtype, shape, input.data(), output.data(), parts, {0, shape.channels, 0.5}, adjoint};
        transform_channels_cpu(pass, 3, -1);
        digest.add(output);
      }
  std::printf("channels %s: %016llx\n", name, static_cast<unsigned long long>(digest.value));
}

template <typename T, typename Real>
void passes(const char* name, Dtype dtype) {
  const Shape shapes[] = {{1, 1, 1, 1, false},   {2, 3, 9, 7, false},    {2, 1, 40, 41, false},
                          {3, 4, 21, 18, false}, {1, 300, 9, 20, false}, {1, 5, 3, 1200, false},
                          {9, 3, 40, 64, false}, {1, 3, 130, 128, false}};
  for (const int parts : {int{brightness}, int{saturation}, int{contrast}, int{shift}, int{cutout}, int{gain},
                          int{noise}, shift | noise, saturation | contrast | cutout, int{all}}) {
    Digest digest;
    for (Shape shape : shapes)
      for (const Picture& picture : {Picture{0, shape.channels, 0.0}, Picture{shape.channels - 1, shape.channels, 0.5}})
        for (const bool adjoint : {false, true})
          for (const int threads : {1, 3}) {
            shape.channels_last = !shape.channels_last;
            pass<T, Real>(digest, dtype, shape, parts, picture, adjoint, threads);
          }
    std::printf("transform %s, parts %3d: %016llx\n", name, parts, static_cast<unsigned long long>(digest.value));
  }
  Digest digest;
  for (int i = 0; i < 100'000; ++i) {
    const uint64_t seed = word(), block = word();  // a call's arguments have no order of their own
    const std::array<double, 4> normals = normal_block_cpu(seed, block, dtype, -1);
    digest.add(normals.data(), sizeof normals);
  }
  std::printf("normals %s: %016llx\n", name, static_cast<unsigned long long>(digest.value));
  channels<T, Real>(name, dtype);
}

void draws(bool given) {
  constexpr int64_t rows = 4, samples = 5000, steps = 101;
  constexpr int columns = 2;
  std::vector<int64_t> words(rows * samples), list(64), steps_given(samples), integers(columns * samples), t(samples);
  for (int64_t& value : words) value = static_cast<int64_t>(word());
  for (int64_t& step : list) step = whole(0, steps);
  for (int64_t& step : steps_given) step = whole(0, steps);
  const std::vector<float> gains = reals<float>(steps), deviations = reals<float>(steps);
  std::vector<float> numbers((columns + 2) * samples);
  Draw draw = {};
  draw.words = words.data();
  draw.word_rows = rows;
  draw.samples = samples;
  draw.reals_drawn = draw.integers_drawn = columns;
  for (int i = 0; i < columns; ++i) {
    draw.real_row[i] = i;
    draw.scale[i] = static_cast<float>(real()) / 3;
    draw.low[i] = static_cast<float>(real()) / 3;
    draw.neutral[i] = 1;
    draw.row[i] = i + 1;
    draw.count[i] = whole(1, 1 << 21);
    draw.offset[i] = whole(-9, 9);
  }
  draw.touched_row = given ? -1 : 3;
  draw.p = 0.7f;
  draw.entry_row = 3;
  draw.given = given ? steps_given.data() : nullptr;
  draw.t_list = list.data();
  draw.gain_table = gains.data();
  draw.noise_table = deviations.data();
  draw.length = static_cast<int64_t>(list.size());
  draw.steps = steps;
  draw.reals = numbers.data();
  draw.integers = integers.data();
  draw.t = t.data();
  draw_cpu(draw);
  Digest digest;
  digest.add(numbers);
  digest.add(integers);
  digest.add(t);
  std::printf("draw%s: %016llx\n", given ? ", steps given" : "", static_cast<unsigned long long>(digest.value));
}

}  // namespace

int main() {
  passes<Float16, float>("float16", Dtype::float16);
  passes<BFloat16, float>("bfloat16", Dtype::bfloat16);
  passes<float, float>("float32", Dtype::float32);
  passes<double, double>("float64", Dtype::float64);
  draws(false);
  draws(true);
}
