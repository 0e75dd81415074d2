// The AMX linear layer as the tiles see it, and the packing of its weights.
#pragma once

#include "device/cpu/linear.h"
#include "device/cpu/x86/amx/gemm.h"
#include "device/cpu/x86/simd/tail_windows.h"

namespace atelier {
namespace {
namespace tiled {

/// A run of inputs and the steps of depth they fill.
struct InputRange {
  int64_t inputs, first_step, steps;
};

/// How a layer's columns are packed: a panel of a gated layer has 16 columns and their 16 gates.
/// `steps` are those of a panel; rows have `row_steps`, with the whole tail.
struct LinearShape {
  int64_t outputs;
  TailWindows windows;
  InputRange main, tail;
  int64_t steps, row_steps, panels, columns;
  bool gated;
  explicit LinearShape(const CpuLinear& layer, int64_t step_depth = kTileWidth)
      : outputs(layer.outputs),
        windows(layer, kPanelColumns, step_depth),
        main{layer.inputs, 0, divide_up(layer.inputs, step_depth)},
        tail{layer.tail, main.steps, windows.units()},
        steps(main.steps + windows.width()),
        row_steps(main.steps + tail.steps),
        gated(layer.epilogue == CpuEpilogue::geglu) {
    columns = gated ? outputs / 2 : outputs;
    panels = divide_up(columns, gated ? 16 : kPanelColumns);
  }
  /// Panels of the matrix that the tail's inputs come from.
  int64_t tail_panels() const { return divide_up(tail.inputs, kPanelColumns); }
  /// The output that column `i` of tile `tile` of a panel computes, and how many from it on exist.
  int64_t output(int64_t panel, int64_t tile) const {
    return gated ? tile * columns + panel * 16 : panel * kPanelColumns + tile * 16;
  }
  int64_t present(int64_t panel, int64_t tile) const {
    const int64_t end = gated ? (tile + 1) * columns : outputs;
    return max64(0, min64(16, end - output(panel, tile)));
  }
};

/// `range.steps` steps of one range from `skipped` on: weights [outputs][range.inputs].
template <class T, class S>
void pack_linear_panel(const LinearShape& shape, const InputRange& range, int64_t skipped,
                       const WeightRows<S>& weights, int64_t panel, char* packed) {
  for (int64_t tile = 0; tile < 2; ++tile) {
    const int64_t present = shape.present(panel, tile);
    const S* const first = weights.rows(present > 0 ? shape.output(panel, tile) : 0, present);
    char* out = packed + (panel * shape.steps + range.first_step) * kStepBytes<T>;
    for (int64_t step = 0; step < range.steps; ++step, out += kStepBytes<T>) {
      __m512i rows[kParts<T>][16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t k = (skipped + step) * kTileWidth;
        const int64_t left = i < present ? range.inputs - k : 0;
        const S* row = first + (i < present ? i * range.inputs : 0);
        __m512i parts[kParts<T>];
        split<T>(row + (left > 0 ? k : 0), left, parts);
        for (int part = 0; part < kParts<T>; ++part) rows[part][i] = parts[part];
      }
      for (int part = 0; part < kParts<T>; ++part) {
        store_tile(rows[part], out + (part * 2 + tile) * kTileBytes);
      }
    }
  }
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
