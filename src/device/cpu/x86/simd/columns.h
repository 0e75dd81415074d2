// Turning rows of weights, one output after another, into columns: the same number of neighbouring
// outputs side by side, as packed weights want them.
#pragma once

#include "device/cpu/parallel.h"
#include "device/cpu/x86/simd/vector.h"

namespace atelier {
namespace {

/// Numbers [begin, begin + count) of `width` outputs' rows as fp32 columns [count rounded up to
/// kLanes][width], `width` a multiple of kLanes. Outputs from `present` on and numbers from `row`
/// on are zero. `rows` points to the first output; a row has `row` numbers.
template <class S>
ATELIER_INLINE void read_columns(const S* rows, int64_t row, int64_t present, int64_t begin,
                                 int64_t count, int64_t width, float* columns) {
  for (int64_t first = 0; first < count; first += kLanes) {
    const Lanes lanes = first_lanes(max64(0, row - begin - first));
    for (int64_t output = 0; output < width; output += kLanes) {
      Words block[kLanes];
      ATELIER_UNROLL for (int i = 0; i < kLanes; ++i) {
        const bool exists = output + i < present && begin + first < row;
        block[i] = exists ? to_words(load(rows + (output + i) * row + begin + first, lanes))
                          : to_words(zero());
      }
      transpose(block);
      float* to = columns + first * width + output;
      ATELIER_UNROLL for (int i = 0; i < kLanes; ++i) store(to + i * width, from_words(block[i]));
    }
  }
}

/// Calls body(S*) with the weights' storage type.
template <class F>
void with_weights(const CpuWeights& weights, const F& body) {
  switch (weights.type) {
    case CpuType::fp32:
      return body(static_cast<const float*>(weights.data));
    case CpuType::bf16:
      return body(static_cast<const Bf16*>(weights.data));
    case CpuType::fp16:
      return body(static_cast<const Fp16*>(weights.data));
  }
}

}  // namespace
}  // namespace atelier
