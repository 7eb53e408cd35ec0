// How a pass is cut into blocks: what the launcher works out and the kernels go by.
#pragma once

#include "input_transform.h"
#include "platform.h"

namespace gan_regularizers {

constexpr int block_threads = 256;
constexpr int most_threads = 512;            // of a block that has a sample for itself
constexpr int64_t slice_elements = 1 << 14;  // of a sample, that one block sums

// How a pass is cut into blocks. The size of the device has a part in it, but none in the slices that are summed.
struct Plan {
  bool flat;       // no window, no mixing, all channels picture, and noise in the order of memory
  int threads;     // of a block
  int64_t slices;  // of a sample, summed by a block each; 0 where there is nothing to sum or one block does all
  int64_t blocks;  // of a sample, that apply the pass
  int64_t lead;    // a sample's slices are summed so many samples before the pass is applied to it
};

// Divides numbers in [0, 2^31) by one that the host knows: by a multiplication (Granlund and Montgomery, PLDI 1994).
class Divider {
 public:
  GR_CONSTEXPR explicit Divider(int64_t divisor) : divisor_(static_cast<int>(divisor)) {
    while (int64_t{1} << shift_ < divisor) ++shift_;
    factor_ = static_cast<uint32_t>(((int64_t{1} << (31 + shift_)) + divisor - 1) / divisor);
  }
  GR_CONSTEXPR int quotient(int number) const {
    return static_cast<int>((uint64_t{2u * static_cast<unsigned>(number)} * factor_ >> 32) >> shift_);
  }
  GR_CONSTEXPR int rest(int number) const { return number - quotient(number) * divisor_; }

 private:
  int divisor_;
  uint32_t factor_ = 0;
  int shift_ = 0;
};

GR_CONSTEXPR bool divides(int divisor) {
  const Divider divider(divisor);
  const int last = INT32_MAX / divisor * divisor;
  const int numbers[] = {0, 1, divisor - 1, divisor, last - 1, last, INT32_MAX};
  for (const int n : numbers)
    if (divider.quotient(n) != n / divisor || divider.rest(n) != n % divisor) return false;
  return true;
}
static_assert(divides(1) && divides(2) && divides(3) && divides(7) && divides(641) && divides(65535) &&
              divides(65537) && divides((1 << 30) - 1) && divides((1 << 30) + 1) && divides(INT32_MAX));

// What the device divides by.
struct Divisors {
  Divider turns;                           // of a sample: slices and blocks
  Divider channels, pixels, width, quads;  // where there is a window or a mixing
};

#if defined(__CUDACC__) || !defined(__CUDA_ARCH__)
// What blocks that run at the same time write and read. Volatile, since a multiprocessor's own cache may hold the line
// from before. Fences say when others see it.
template <typename T>
using Exchanged = volatile T;
#endif

// What blocks tell each other about slices.
struct Progress {
  Exchanged<float>* sums;      // [samples, slices]
  Exchanged<unsigned>* begun;  // blocks
  Exchanged<unsigned>* done;   // [samples]: slices; these counters are zero before the launch
};

// What a launch passes is laid out by two compilers, the host's and the device's.
static_assert(sizeof(Pass) == 176 && sizeof(Plan) == 32 && sizeof(Divisors) == 60 && sizeof(Progress) == 24 &&
                  sizeof(Draw) == 696,
              "the arguments of a launch have another size here than for the other compiler");

// Where the elements of the picture lie together in memory, only they are summed; else those of other channels count as
// zeros.
GR_INLINE bool picture_lies_together(const Pass& pass) {
  return !pass.shape.channels_last || picture_channels(pass) == pass.shape.channels;
}

// The elements that the mean of a sample runs over.
GR_INLINE int64_t summed_elements(const Pass& pass) {
  const int64_t channels = picture_lies_together(pass) ? picture_channels(pass) : pass.shape.channels;
  return channels * pass.shape.height * pass.shape.width;
}

}  // namespace gan_regularizers
