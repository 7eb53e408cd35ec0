// The CPU's entry points: which instruction set runs, and on how many threads.

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <numeric>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "checks.h"
#include "cpu_features.h"
#include "draw.h"
#include "input_transform.h"
#include "kernels.h"
#include "kernels_cpu.h"

namespace gan_regularizers {
namespace {

struct InstructionSet {
  const char* name;
  SimdKernels (*kernels)(Dtype);
};

const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> usable = [] {
    std::vector<InstructionSet> sets = {{"baseline", baseline::kernels}};
#if defined(GR_AVX2)
    if (CpuFeatures().avx2) sets.push_back({"avx2", avx2::kernels});
#endif
#if defined(GR_AVX512)
    if (CpuFeatures().avx512) sets.push_back({"avx512", avx512::kernels});
#endif
    return sets;
  }();
  return usable;
}

using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

// torch's own OpenMP threads, where the process has them under the name that GCC gave them; not so on Windows.
Parallel openmp_parallel() {
#if defined(_WIN32)
  return nullptr;
#else
  return reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
#endif
}

// Runs work(context) on several threads at once, torch's own where they can be had: a second pool would fight with the
// first for the cores.
void on_threads(int threads, void (*work)(void*), void* context) {
  static const Parallel openmp = openmp_parallel();
  if (threads == 1) {
    work(context);
  } else if (openmp) {
    openmp(work, context, static_cast<unsigned>(threads), 0);
  } else {
    std::vector<std::thread> others;
    others.reserve(threads);
    try {
      for (int i = 1; i < threads; ++i) others.emplace_back(work, context);
    } catch (const std::system_error&) {
      // Those that could be started do the work.
    }
    work(context);
    for (std::thread& thread : others) thread.join();
  }
}

struct alignas(cache_line) CacheLine {
  char bytes[cache_line];
};

constexpr int64_t elements_per_thread = 1 << 14;  // fewer are done sooner than a thread wakes up

// Calls run(unit, scratch) once for each of `units`, in any order and on any thread.
template <typename Run>
void for_each_unit(int64_t units, int64_t elements, int threads, int64_t scratch, const Run& run) {
  struct Context {
    const Run& run;
    int64_t units, grain, lines;
    CacheLine* memory;
    std::atomic<int64_t> next_unit, next_worker;
  };
  const int64_t useful = std::min<int64_t>({threads, units, elements / elements_per_thread});
  const int workers = static_cast<int>(std::max<int64_t>(1, useful));
  const int64_t lines = (scratch + cache_line - 1) / cache_line;
  // Memory for all workers, here and not in them: an exception in a worker would end the process.
  const std::unique_ptr<CacheLine[]> memory(new CacheLine[lines * workers]);
  Context context{run, units, std::max<int64_t>(1, units / (8 * workers)), lines, memory.get(), {0}, {0}};
  const auto work = [](void* pointer) {
    Context& c = *static_cast<Context*>(pointer);
    CacheLine* const own = c.memory + c.lines * c.next_worker.fetch_add(1);
    for (int64_t begin; (begin = c.next_unit.fetch_add(c.grain)) < c.units;)
      for (int64_t unit = begin; unit < std::min(begin + c.grain, c.units); ++unit) c.run(unit, own);
  };
  on_threads(workers, work, &context);
}

// A tile's channels fill half of a first-level cache. Of many channels a tile has 16 pixels all the same, so that rows
// are not cut too short for vectors.
Tiling tiling_of(const Shape& shape) {
  const int64_t elements = std::clamp<int64_t>(4096 / shape.channels, 16, 1024);
  Tiling tiling;
  tiling.columns = std::min(shape.width, elements);
  tiling.rows = tiling.columns < shape.width ? 1 : std::min(elements / shape.width, shape.height);
  tiling.row_tiles = (shape.height + tiling.rows - 1) / tiling.rows;
  tiling.column_tiles = (shape.width + tiling.columns - 1) / tiling.columns;
  return tiling;
}

// The samples, those with noise first: they take several times as long as others, so none of them should be the last
// unit of a thread when the other threads have finished.
std::vector<int64_t> longest_first(const Pass& pass) {
  std::vector<int64_t> order(static_cast<size_t>(pass.shape.samples));
  std::iota(order.begin(), order.end(), 0);
  if (pass.adjoint || !pass.parts.noise_std) return order;
  std::stable_partition(order.begin(), order.end(), [&](int64_t n) {
    return pass.dtype == Dtype::float64 ? static_cast<const double*>(pass.parts.noise_std)[n] != 0.0
                                        : static_cast<const float*>(pass.parts.noise_std)[n] != 0.0f;
  });
  return order;
}

// Without a shift and a box a channel is one row: the logical order is the same. A sample is, where all channels are
// alike and lie one after the other; with few of them it is better to have their pixels in one tile.
Pass flattened(Pass pass) {
  const Parts& parts = pass.parts;
  Shape& shape = pass.shape;
  if (parts.shift || parts.cutout) return pass;
  shape.width *= shape.height;
  shape.height = 1;
  shape.channels_last &= shape.width > 1;
  const bool alike = !parts.contrast && !mixes_channels(pass) && picture_channels(pass) == shape.channels;
  if (alike && shape.channels > 16 && !shape.channels_last) {
    shape.width *= shape.channels;
    shape.channels = pass.picture.end = 1;
  }
  return pass;
}

SimdKernels kernels_for(Dtype dtype, int instruction_set) {
  bytes_of(dtype);  // refuses what is none
  const int sets = static_cast<int>(instruction_sets().size());
  if (instruction_set < -1 || instruction_set >= sets) refuse("instruction set " + std::to_string(instruction_set));
  return instruction_sets()[instruction_set < 0 ? sets - 1 : instruction_set].kernels(dtype);
}

}  // namespace

std::vector<std::string> cpu_instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet& set : instruction_sets()) names.push_back(set.name);
  return names;
}

void transform_cpu(const Pass& given, int threads, int instruction_set) {
  const int64_t elements = checked_elements(given);
  const SimdKernels kernels = kernels_for(given.dtype, instruction_set);
  if (threads < 1) refuse("threads is " + std::to_string(threads) + "; at least 1 is needed");
  if (elements == 0) return;
  const Pass pass = flattened(given);
  const Tiling tiling = tiling_of(pass.shape);
  const int64_t tiles = tiling.row_tiles * tiling.column_tiles, samples = pass.shape.samples;
  const int64_t scratch = scratch_bytes(pass.shape, tiling);

  const std::vector<int64_t> order = longest_first(pass);

  if (!pass.parts.contrast) {
    for_each_unit(samples * tiles, elements, threads, scratch, [&](int64_t unit, void* memory) {
      kernels.apply(pass, tiling, order[unit / tiles], unit % tiles, 0.0, memory);
    });
    return;
  }
  // The partial sums of a sample are added in one order, whoever made them.
  std::vector<double> sums(static_cast<size_t>(samples * tiles));
  const auto sum = [&](int64_t unit, void* memory) {
    sums[unit] = kernels.sum(pass, tiling, unit / tiles, unit % tiles, memory);
  };
  const auto mean = [&](int64_t sample) {
    double total = 0.0;
    for (int64_t tile = 0; tile < tiles; ++tile) total += sums[sample * tiles + tile];
    return total / static_cast<double>(picture_channels(pass) * pass.shape.height * pass.shape.width);
  };
  if (samples >= 4 * threads) {  // sum and apply while the sample is in a cache
    for_each_unit(samples, elements, threads, scratch, [&](int64_t unit, void* memory) {
      const int64_t sample = order[unit];
      for (int64_t tile = 0; tile < tiles; ++tile) sum(sample * tiles + tile, memory);
      const double mu = mean(sample);
      for (int64_t tile = 0; tile < tiles; ++tile) kernels.apply(pass, tiling, sample, tile, mu, memory);
    });
    return;
  }
  for_each_unit(samples * tiles, elements, threads, scratch, sum);
  std::vector<double> means(static_cast<size_t>(samples));
  for (int64_t sample = 0; sample < samples; ++sample) means[sample] = mean(sample);
  for_each_unit(samples * tiles, elements, threads, scratch, [&](int64_t unit, void* memory) {
    const int64_t sample = order[unit / tiles];
    kernels.apply(pass, tiling, sample, unit % tiles, means[sample], memory);
  });
}

void transform_channels_cpu(const Pass& given, int threads, int instruction_set) {
  const int64_t elements = checked_elements(given);
  const SimdKernels kernels = kernels_for(given.dtype, instruction_set);
  if (threads < 1) refuse("threads is " + std::to_string(threads) + "; at least 1 is needed");
  check_is_of_channels(given);
  if (elements == 0) return;
  Pass pass = given;
  const int64_t pixels = pass.shape.height * pass.shape.width;
  if (pixels == 1) pass.shape.channels_last = true;  // which it is, too
  // A unit is some pixels of one line or, of short lines, several whole ones.
  constexpr int64_t unit_elements = 1 << 12;
  const int64_t width = pass.shape.channels_last ? pass.shape.channels : 1, lines = elements / (pixels * width);
  const int64_t piece = std::max<int64_t>(32, unit_elements / width / 4 * 4), pieces = (pixels + piece - 1) / piece;
  const int64_t together = pieces > 1 ? 1 : std::max<int64_t>(1, unit_elements / (pixels * width));
  const int64_t units = pieces * ((lines + together - 1) / together);
  const int64_t made = pass.parts.seed ? lines * width * ((pixels + 3) / 4 * 4) : 0;  // normals
  for_each_unit(units, std::max(elements, made), threads, 0, [&](int64_t unit, void*) {
    const int64_t line = unit / pieces * together, pixel = unit % pieces * piece;
    kernels.diffuse(pass, line, std::min(line + together, lines), pixel, std::min(pixel + piece, pixels));
  });
}

std::array<double, 4> normal_block_cpu(uint64_t seed, uint64_t block, Dtype dtype, int instruction_set) {
  return kernels_for(dtype, instruction_set).normal_block(seed, block);
}

void draw_cpu(const Draw& given) {
  check(given);
  if (given.samples == 0) return;
  const Draw draw = given;  // nothing that is written can lie in it
  if (draw.gain_table) {    // every step that may be taken
    const int64_t* const steps = draw.given ? draw.given : draw.t_list;
    const int64_t count = draw.given ? draw.samples : draw.length;
    for (int64_t i = 0; i < count; ++i)
      if (steps[i] < 0 || steps[i] >= draw.steps)
        refuse("t is " + std::to_string(steps[i]) + "; allowed are 0 to " + std::to_string(draw.steps - 1));
  }
  if (draw.reals_drawn || draw.integers_drawn)
    for (int64_t n = 0; n < draw.samples; ++n) draw_numbers(draw, n);
  if (draw.gain_table)
    for (int64_t n = 0; n < draw.samples; ++n) look_up_levels(draw, n, step_of(draw, n));
}

}  // namespace gan_regularizers
