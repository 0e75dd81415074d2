// Turning rows of weights, one output after another, into columns: the same number of neighbouring
// outputs side by side, as packed weights want them.
#pragma once

#include "device/cpu/parallel.h"
#include "device/cpu/scratch.h"
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

/// Rows of weights, a few at a time, for one thread: where they lie, or read into memory of its
/// own. A row has `row` numbers; the memory has room for `most` rows.
template <class S>
class WeightRows {
 public:
  WeightRows(const CpuWeights& weights, int64_t row, int64_t most)
      : data_(static_cast<const S*>(weights.data)),
        reader_(weights.data == nullptr ? weights.reader : nullptr),
        row_(row),
        memory_(reader_ == nullptr ? 0 : row * most * int64_t{sizeof(S)}) {}
  /// Row `first` and what follows it, `count` rows. They stay until others are read to the same
  /// place: `at` rows into the memory.
  const S* rows(int64_t first, int64_t count, int64_t at = 0) const {
    if (reader_ == nullptr) return data_ + first * row_;
    S* const to = static_cast<S*>(memory_.data()) + at * row_;
    if (count > 0) reader_->read(first, count, to);
    return to;
  }

 private:
  const S* data_;
  const CpuWeightReader* reader_;
  int64_t row_;
  Scratch memory_;
};

/// For each of `count` pieces of weights calls body(rows, piece), split over threads; rows are
/// WeightRows of the weights' storage type.
template <class F>
void for_weights(const CpuWeights& weights, int64_t row, int64_t most, int64_t count,
                 const Parallel& parallel, const F& body) {
  const auto run = [&]<class S>(S) {
    parallel_for(parallel, count, [&](int64_t begin, int64_t end) {
      const WeightRows<S> rows(weights, row, most);
      for (int64_t i = begin; i < end; ++i) body(rows, i);
    });
  };
  switch (weights.type) {
    case CpuType::fp32:
      return run(float{});
    case CpuType::bf16:
      return run(Bf16{});
    case CpuType::fp16:
      return run(Fp16{});
  }
}

}  // namespace
}  // namespace atelier
