// What this machine gives: how fast it copies a tensor in several ways, and how many vector instructions it runs.
// Prints a name and a time for each, in rounds:
//
//     machine BYTES ROUNDS
//
// Seconds of a copy, if there are any bytes, and nanoseconds of an instruction, which each thread runs. As many threads
// as OpenMP has.

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr size_t width = sizeof(__m256i);

void copy(char* out, const char* in, size_t bytes) {
  for (size_t i = 0; i < bytes; i += width)
    _mm256_storeu_si256((__m256i*)(out + i), _mm256_loadu_si256((const __m256i*)(in + i)));
}

void stream(char* out, const char* in, size_t bytes) {
  for (size_t i = 0; i < bytes; i += width)
    _mm256_stream_si256((__m256i*)(out + i), _mm256_loadu_si256((const __m256i*)(in + i)));
  _mm_sfence();
}

void read(char*, const char* in, size_t bytes) {
  __m256i sums[4] = {};
  for (size_t i = 0; i < bytes; i += 4 * width)
    for (size_t k = 0; k < 4; ++k)
      sums[k] = _mm256_add_epi32(sums[k], _mm256_loadu_si256((const __m256i*)(in + i + k * width)));
  for (const __m256i& sum : sums) asm volatile("" ::"x"(sum));
}

// Rows that are moved by five floats, by a call of memcpy each.
template <size_t row>
void copy_rows(char* out, const char* in, size_t bytes) {
  constexpr size_t moved = 20;
  size_t size = row - moved;
  asm volatile("" : "+r"(size));  // a call, not a few instructions
  for (size_t i = 0; i < bytes; i += row) {
    std::memset(out + i, 0, moved);
    std::memcpy(out + i + moved, in + i, size);
  }
}

template <typename Work>
double seconds(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

using Copy = void (*)(char*, const char*, size_t);

void on_threads(Copy copy, char* out, const char* in, size_t bytes) {
  constexpr size_t piece = 1 << 18;
#pragma omp parallel for schedule(static)
  for (size_t i = 0; i < bytes; i += piece) copy(out + i, in + i, std::min(piece, bytes - i));
}

void into_fresh_memory(Copy copy, const char* in, size_t bytes) {
  void* const out = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (out == MAP_FAILED) std::abort();
  on_threads(copy, static_cast<char*>(out), in, bytes);
  munmap(out, bytes);
}

// Multiplications, additions and bit operations, each of which waits for nothing but the one before it in its chain.
struct Chain {
  __m256 product, sum;
  __m256i number, word;
};

inline void step(Chain& chain, __m256 factor, __m256i one) {
  chain.product = _mm256_mul_ps(chain.product, factor);
  chain.sum = _mm256_add_ps(chain.sum, factor);
  chain.number = _mm256_add_epi32(chain.number, one);
  chain.word = _mm256_xor_si256(chain.word, one);
  asm volatile("" : "+x"(chain.product), "+x"(chain.sum), "+x"(chain.number), "+x"(chain.word));
}

void instructions(int64_t count) {
  const __m256 factor = _mm256_set1_ps(0.9999f);
  const __m256i one = _mm256_set1_epi32(1);
  Chain first = {factor, factor, one, one}, second = first, third = first;  // apart, or they would lie in memory
  for (int64_t i = 0; i < count; i += 12) {
    step(first, factor, one);
    step(second, factor, one);
    step(third, factor, one);
  }
}

}  // namespace

int main(int, char** given) {
  const size_t bytes = std::strtoull(given[1], nullptr, 10);
  const int rounds = std::atoi(given[2]);
  char* const in = static_cast<char*>(std::aligned_alloc(4096, bytes));
  char* const out = static_cast<char*>(std::aligned_alloc(4096, bytes));
  std::memset(in, 1, bytes);
  std::memset(out, 1, bytes);
  const struct {
    const char* name;
    Copy copy;
    bool fresh;
  } ways[] = {{"read", read, false},
              {"copy", copy, false},
              {"streaming stores", stream, false},
              {"memcpy, moved rows of 1 KiB", copy_rows<1024>, false},
              {"memcpy, moved rows of 128 B", copy_rows<128>, false},
              {"copy, fresh memory", copy, true},
              {"streaming stores, fresh memory", stream, true}};
  for (int round = 0; round < rounds; ++round) {
    for (const auto& way : ways) {
      if (bytes == 0) break;
      const auto work = [&] {
        if (way.fresh) return into_fresh_memory(way.copy, in, bytes);
        on_threads(way.copy, out, in, bytes);
      };
      work();  // else the caches would be as another way left them
      const double taken = seconds(work);
      std::printf("%s\t%.4g\n", way.name, taken);
    }
    constexpr int64_t count = 1'200'000;
    const auto on_all = [] {
#pragma omp parallel
      instructions(count);
    };
    std::printf("instruction\t%.4g\n", 1e9 / count * seconds(on_all));
  }
}
