// Linear layers as 8-bit integers on AMX tiles: the walk of amx/linear.h over rows and weights of
// x86/simd/quantise.h. Behind the packed panels lie the outputs' scales, fp32.
#pragma once

#include "device/cpu/x86/amx/linear.h"

namespace atelier {
namespace {
namespace tiled {

/// Panel `panel` of weights [outputs][inputs], and its outputs' scales.
template <class S>
void pack_quantised_panel(const LinearShape& shape, const WeightRows<S>& weights, int64_t panel,
                          char* packed, float* scales) {
  for (int64_t tile = 0; tile < 2; ++tile) {
    const int64_t present = shape.present(panel, tile), output = shape.output(panel, tile);
    const S* const first = weights.rows(present > 0 ? output : 0, present);
    char* const out = packed + panel * shape.steps * kStepBytes<Quantised<S>> + tile * kTileBytes;
    const auto tile_at = [&](int64_t step) { return out + step * kStepBytes<Quantised<S>>; };
    // Row by row into the places of the tiles, then each tile is turned in its place.
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t inputs = i < present ? shape.main.inputs : 0;
      for (int64_t step = divide_up(inputs, kQuad); step < shape.steps; ++step) {
        _mm512_store_si512(tile_at(step) + i * kTileRowBytes, _mm512_setzero_si512());
      }
      const float scale =
          quantise_row(first + i * inputs, inputs, 0, [&](int64_t step, Words bytes) {
            _mm512_store_si512(tile_at(step) + i * kTileRowBytes, bytes);
          });
      if (i < present) scales[output + i] = scale;
    }
    for (int64_t step = 0; step < shape.steps; ++step) {
      __m512i rows[16];
      for (int i = 0; i < 16; ++i) rows[i] = _mm512_load_si512(tile_at(step) + i * kTileRowBytes);
      store_tile(rows, tile_at(step));
    }
  }
}

bool int8_supported(const CpuLinear& layer) {
  return linear_supported(layer) && layer.inputs <= kMostQuantisedInputs && layer.tail == 0;
}
int64_t int8_weight_bytes(const CpuLinear& layer) {
  const LinearShape shape(layer, kTileRowBytes);
  return panels_bytes<Quantised<float>>(shape) + layer.outputs * int64_t{sizeof(float)};
}
void pack_int8(const CpuLinear& layer, const CpuWeights& weights, void* packed,
               const Parallel& parallel) {
  const LinearShape shape(layer, kTileRowBytes);
  char* const panels = static_cast<char*>(packed);
  float* const scales = reinterpret_cast<float*>(panels + panels_bytes<Quantised<float>>(shape));
  for_weights(weights, layer.inputs, 16, shape.panels, parallel,
              [&](const auto& rows, int64_t panel) {
                pack_quantised_panel(shape, rows, panel, panels, scales);
              });
}
void linear_int8(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  with_constant(layer.epilogue, [&]<CpuEpilogue epilogue>() {
    with_type(layer.type, [&](auto number) {
      run_linear_as<epilogue, Quantised<decltype(number)>>(layer, run, parallel);
    });
  });
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
