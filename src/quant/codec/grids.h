// The grids of the IQ encodings: sets of eight or four small numbers that an index picks from.
//
// The sets are part of the format (ggml-common.h of ggml: iq2xxs_grid and so on). grids.inc
// restates them as digits: two bits for each of eight numbers, or four for each of four. On a GPU
// the tables lie in device memory.
#pragma once

#include "quant/codec/block.h"

namespace atelier {
namespace grids {

#include "quant/codec/grids.inc"

#ifdef __CUDACC__
namespace on_device {
#define ATELIER_GRID_ON_DEVICE
#include "quant/codec/grids.inc"
#undef ATELIER_GRID_ON_DEVICE
}  // namespace on_device
#endif
}  // namespace grids

/// Eight digits as 8, 25, 43.
ATELIER_HOST_DEVICE constexpr uint64_t iq2_magnitudes(uint64_t digits) {
  const uint64_t x = spread_bits<2>(digits);
  return 0x0808080808080808ULL + x * 17 + (x >> 1 & 0x0101010101010101ULL);
}

/// Four digits as 4, 12, ... 52, 62.
ATELIER_HOST_DEVICE constexpr uint64_t iq3_xxs_magnitudes(uint64_t digits) {
  const uint64_t x = spread_bits<4>(digits);
  return 0x04040404ULL + x * 8 + (x & x >> 1 & x >> 2 & 0x01010101ULL) * 2;
}

/// Four digits as 1, 3, ... 15.
ATELIER_HOST_DEVICE constexpr uint64_t iq3_s_magnitudes(uint64_t digits) {
  return 0x01010101ULL + spread_bits<4>(digits) * 2;
}

/// Eight digits as -8, 0, 8, each 128 higher, so that a byte's sum with 1 stays a byte.
ATELIER_HOST_DEVICE constexpr uint64_t iq1_numbers(uint64_t digits) {
  return 0x7878787878787878ULL + spread_bits<2>(digits) * 8;
}

#ifdef __CUDA_ARCH__
// A point of a grid as the bytes of a word.
#define ATELIER_POINT(grid, unfold, index) unfold(::atelier::grids::on_device::grid[index])
#else
/// A grid's points as the bytes of words: on the host a look-up is quicker than unfolding digits.
template <class Word, size_t kPoints>
struct Unfolded {
  Word words[kPoints];
  consteval Unfolded(const uint16_t (&digits)[kPoints], uint64_t (*unfold)(uint64_t)) : words{} {
    for (size_t i = 0; i < kPoints; ++i) words[i] = static_cast<Word>(unfold(digits[i]));
  }
};
namespace unfolded {
static constexpr Unfolded<uint64_t, 256> kIq2Xxs(grids::kIq2Xxs, iq2_magnitudes);
static constexpr Unfolded<uint64_t, 512> kIq2Xs(grids::kIq2Xs, iq2_magnitudes);
static constexpr Unfolded<uint64_t, 1024> kIq2S(grids::kIq2S, iq2_magnitudes);
static constexpr Unfolded<uint32_t, 256> kIq3Xxs(grids::kIq3Xxs, iq3_xxs_magnitudes);
static constexpr Unfolded<uint32_t, 512> kIq3S(grids::kIq3S, iq3_s_magnitudes);
static constexpr Unfolded<uint64_t, 2048> kIq1(grids::kIq1, iq1_numbers);
}  // namespace unfolded
#define ATELIER_POINT(grid, unfold, index) ::atelier::unfolded::grid.words[index]
#endif

/// The numbers of an IQ1 point with 1 added to or taken from each, as int8.
ATELIER_HOST_DEVICE inline uint64_t iq1_codes(uint64_t numbers, bool minus) {
  // No branch: the signs are as good as random.
  const uint64_t ones = 0x0101010101010101ULL, twice = ones * 2;
  return (numbers + ones - twice * static_cast<uint64_t>(minus)) ^ 0x8080808080808080ULL;
}

/// Seven signs and an eighth that makes their number even.
ATELIER_HOST_DEVICE constexpr unsigned even_signs(uint32_t bits) {
  const uint32_t seven = bits & 127;
  uint32_t parity = seven ^ seven >> 4;
  parity ^= parity >> 2;
  return seven | ((parity ^ parity >> 1) & 1) << 7;
}

}  // namespace atelier
