// Linear layers whose weights are read as they are multiplied, for few rows: what a weight costs is
// reading it once, so packing it first would only cost more. Each sum runs over the depth in lanes,
// whatever the rows and threads.
#pragma once

#include "device/cpu/linear.h"
#include "device/cpu/parallel.h"
#include "device/cpu/x86/simd/columns.h"
#include "device/cpu/x86/simd/epilogue.h"

namespace atelier {
namespace {

/// Rows and outputs whose products are summed at a time.
constexpr int kRowTile = kLanes == 16 ? 4 : 2;

template <class A, class B>
constexpr bool same_type = false;
template <class A>
constexpr bool same_type<A, A> = true;

/// Weights as the layer's type has them, which packing would give them.
template <class T, class S>
ATELIER_INLINE Vec load_weights(const S* p, Lanes lanes) {
  const Vec w = load(p, lanes);
  if constexpr (sizeof(T) == 2 && !same_type<S, Bf16>) return rounded_to_bf16(w);
  return w;
}

/// sums[r][o] of R rows of x, `x_stride` apart, and kRowTile rows of weights.
template <int R, class T, class S>
ATELIER_INLINE void multiply_rows(const T* x, int64_t x_stride, const S* const (&weights)[kRowTile],
                                  int64_t depth, float* sums) {
  Vec s[R][kRowTile];
  ATELIER_UNROLL for (int r = 0; r < R; ++r) {
    ATELIER_UNROLL for (int o = 0; o < kRowTile; ++o) s[r][o] = zero();
  }
  for (int64_t k = 0; k < depth; k += kLanes) {
    const Lanes lanes = first_lanes(depth - k);
    Vec w[kRowTile];
    ATELIER_UNROLL for (int o = 0; o < kRowTile; ++o) w[o] = load_weights<T>(weights[o] + k, lanes);
    ATELIER_UNROLL for (int r = 0; r < R; ++r) {
      const Vec value = load(x + r * x_stride + k, lanes);
      ATELIER_UNROLL for (int o = 0; o < kRowTile; ++o) s[r][o] = fma(value, w[o], s[r][o]);
    }
  }
  ATELIER_UNROLL for (int r = 0; r < R; ++r) {
    ATELIER_UNROLL for (int o = 0; o < kRowTile; ++o) sums[r * kLanes + o] = reduce_add(s[r][o]);
  }
}

/// sums[row][kLanes] of all rows of x and `present` rows of weights from `output` on; past them
/// sums are repeated. Weights that are decoded are multiplied while the first cache has them.
template <class T, class S>
void multiply_all_rows(const CpuLinearRun& run, const WeightRows<S>& weights, int64_t output,
                       int64_t depth, int64_t present, float* sums) {
  const T* x = static_cast<const T*>(run.x);
  for (int64_t first = 0; first < present; first += kRowTile) {
    const int64_t count = min64(kRowTile, present - first);
    const S* const tile = weights.rows(output + first, count);
    const S* w[kRowTile];
    ATELIER_UNROLL for (int o = 0; o < kRowTile; ++o) w[o] = tile + min64(o, count - 1) * depth;
    int64_t row = 0;
    for (; row + kRowTile <= run.rows; row += kRowTile) {
      multiply_rows<kRowTile>(x + row * run.x_stride, run.x_stride, w, depth,
                              sums + row * kLanes + first);
    }
    for (; row < run.rows; ++row) {
      multiply_rows<1>(x + row * run.x_stride, run.x_stride, w, depth, sums + row * kLanes + first);
    }
  }
}

/// kLanes outputs from `first` on: their sums, and those of their gates if there are any.
template <class T>
void finish_rows(const CpuLinear& layer, const CpuLinearRun& run, int64_t columns, int64_t first,
                 const float* sums, const float* gates) {
  const Lanes lanes = first_lanes(columns - first);
  const auto bias_at = [&](int64_t output) {
    return run.bias == nullptr ? zero() : load(run.bias + output, lanes);
  };
  const Vec bias = bias_at(first), gate_bias = gates == nullptr ? bias : bias_at(columns + first);
  T* y = static_cast<T*>(run.y) + first;
  for (int64_t row = 0; row < run.rows; ++row, y += run.y_stride) {
    Vec value = with_epilogue<T>(layer.epilogue, add(load(sums + row * kLanes), bias));
    if (gates != nullptr) {
      value = mul(value, gelu<kPrecision<T>>(add(load(gates + row * kLanes), gate_bias)));
    }
    store(y, run.accumulate ? add(value, load(y, lanes)) : value, lanes);
  }
}

template <class T>
void run_unpacked(const CpuLinear& layer, const CpuWeights& weights, const CpuLinearRun& run,
                  const Parallel& parallel) {
  const bool gated = layer.epilogue == CpuEpilogue::geglu;
  const int64_t columns = gated ? layer.outputs / 2 : layer.outputs;
  for_weights(weights, layer.inputs, kRowTile, divide_up(columns, kLanes), parallel,
              [&](const auto& rows, int64_t group) {
                const int64_t first = group * kLanes, present = min64(kLanes, columns - first);
                const Scratch memory(2 * run.rows * kLanes * int64_t{sizeof(float)});
                float* const sums = static_cast<float*>(memory.data());
                float* const gates = gated ? sums + run.rows * kLanes : nullptr;
                multiply_all_rows<T>(run, rows, first, layer.inputs, present, sums);
                if (gated) {
                  multiply_all_rows<T>(run, rows, columns + first, layer.inputs, present, gates);
                }
                finish_rows<T>(layer, run, columns, first, sums, gates);
              });
}

void linear_unpacked(const CpuLinear& layer, const CpuWeights& weights, const CpuLinearRun& run,
                     const Parallel& parallel) {
  layer.type == CpuType::fp32 ? run_unpacked<float>(layer, weights, run, parallel)
                              : run_unpacked<Bf16>(layer, weights, run, parallel);
}

}  // namespace
}  // namespace atelier
