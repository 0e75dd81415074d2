// The AMX convolution's layer as the tiles see it, and the packing of its weights.
#pragma once

#include <string.h>

#include "device/cpu/conv.h"
#include "device/cpu/x86/amx/linear.h"
#include "device/cpu/x86/simd/pointwise.h"

namespace atelier {
namespace {
namespace tiled {

/// A layer as the tiles see it: of an upsampling layer, one of its four 2x2 kernels.
struct TapShape {
  int64_t inputs, outputs, kernel, stride, phases, depth, panels;
  explicit TapShape(const CpuConv& layer)
      : inputs(layer.inputs),
        outputs(layer.outputs),
        kernel(layer.upsample ? 2 : layer.kernel),
        stride(layer.stride),
        phases(layer.upsample ? 4 : 1),
        depth(divide_up(layer.inputs, kTileWidth)),
        panels(divide_up(layer.outputs, kPanelColumns)) {}
  int64_t taps() const { return kernel * kernel; }
  int64_t steps() const { return taps() * depth; }
  template <class T>
  int64_t phase_bytes() const {
    return panels * steps() * kStepBytes<T>;
  }
};

/// Where in its kernel's taps the weight of one tap of one phase is found: the taps it sums.
struct TapSum {
  int count;
  int64_t taps[4];
};
inline TapSum tap_sum(const CpuConv& layer, int64_t phase, int64_t tap) {
  if (!layer.upsample) return {1, {tap}};
  // As in sum_phase_weights().
  TapSum sum{};
  const int64_t down = phase / 2, right = phase % 2;
  for (int64_t t = 0; t < 9; ++t) {
    const int64_t i = (down + t / 3 + 1) / 2 - down, j = (right + t % 3 + 1) / 2 - right;
    if (i * 2 + j == tap) sum.taps[sum.count++] = t;
  }
  return sum;
}

/// Bytes that packing a tile works on: one tile of inputs with all their taps, in all parts.
template <class T>
int64_t word_bytes(const TapShape& shape) {
  return shape.taps() * kParts<T> * kTileBytes;
}

/// Sixteen outputs of a panel, whose weights are [present][inputs][taps], of a layer that does not
/// upsample. `words`, word_bytes() long, receives numbers 2 w and 2 w + 1 of all outputs side by
/// side, from which pairs of neighbouring inputs are put together.
template <class T, class S>
void pack_conv_tile(const TapShape& shape, const S* weights, int64_t present, int64_t panel,
                    int64_t tile, char* words, char* packed) {
  const int64_t taps = shape.taps(), row = shape.inputs * taps;
  char* out = packed + panel * shape.steps() * kStepBytes<T> + tile * kTileBytes;
  for (int64_t e = 0; e < shape.depth; ++e) {
    for (int64_t i = 0; i < taps; ++i) {
      const int64_t begin = (e * taps + i) * kTileWidth;
      __m512i rows[kParts<T>][16];
      ATELIER_UNROLL for (int64_t output = 0; output < 16; ++output) {
        const int64_t left = output < present ? row - begin : 0;
        __m512i parts[kParts<T>];
        split<T>(weights + (left > 0 ? output * row + begin : 0), left, parts);
        for (int part = 0; part < kParts<T>; ++part) rows[part][output] = parts[part];
      }
      for (int part = 0; part < kParts<T>; ++part) {
        store_tile(rows[part], words + (part * taps + i) * kTileBytes);
      }
    }
    const int64_t odd = taps % 2;  // then a pair's second number lies in the other half of a word
    for (int64_t tap = 0; tap < taps; ++tap, out += kStepBytes<T>) {
      for (int part = 0; part < kParts<T>; ++part) {
        const char* const from = words + part * taps * kTileBytes;
        for (int64_t pair = 0; pair < 16; ++pair) {
          const int64_t number = 2 * pair * taps + tap;
          const __m512i a = _mm512_load_si512(from + number / 2 * 64);
          const __m512i b = _mm512_load_si512(from + (number + taps) / 2 * 64);
          const __m512i low = tap % 2 == 0 ? a : _mm512_srli_epi32(a, 16);
          const __m512i high = (tap + odd) % 2 == 0 ? _mm512_slli_epi32(b, 16) : b;
          _mm512_store_si512(out + part * 2 * kTileBytes + pair * 64,
                             _mm512_mask_blend_epi16(0xaaaaaaaa, low, high));
        }
      }
    }
  }
}

/// Bytes of columns a panel's packing works on: one tile of inputs with all their taps.
inline int64_t column_bytes(const CpuConv& layer) {
  return kTileWidth * layer.kernel * layer.kernel * kPanelColumns * int64_t{sizeof(float)};
}

/// One panel of one phase of a layer that upsamples: its outputs' weights [kPanelColumns or
/// fewer][inputs][taps], which are summed.
template <class T, class S>
void pack_phase_panel(const CpuConv& layer, const TapShape& shape, const S* weights, int64_t phase,
                      int64_t panel, float* columns, char* packed) {
  const int64_t count = int64_t{layer.kernel} * layer.kernel, row = shape.inputs * count;
  const int64_t first = panel * kPanelColumns;
  char* out = packed + phase * shape.phase_bytes<T>() + panel * shape.steps() * kStepBytes<T>;
  for (int64_t e = 0; e < shape.depth; ++e) {
    read_columns(weights, row, shape.outputs - first, e * kTileWidth * count, kTileWidth * count,
                 kPanelColumns, columns);
    for (int64_t tap = 0; tap < shape.taps(); ++tap, out += kStepBytes<T>) {
      const TapSum sum = tap_sum(layer, phase, tap);
      for (int64_t tile = 0; tile < 2; ++tile) {
        const int64_t output = tile * 16;
        const auto weight = [&](int64_t input) {
          const float* of_input = columns + input * count * kPanelColumns + output;
          Vec total = load(of_input + sum.taps[0] * kPanelColumns);
          for (int i = 1; i < sum.count; ++i) {
            total = add(total, load(of_input + sum.taps[i] * kPanelColumns));
          }
          return total;
        };
        for (int64_t pair = 0; pair < 16; ++pair) {
          Vec low = weight(2 * pair), high = weight(2 * pair + 1);
          for (int part = 0; part < kParts<T>; ++part) {
            const Words words = make_words<Bf16>(low, high);
            _mm512_store_si512(out + (part * 2 + tile) * kTileBytes + pair * 64, words);
            low = sub(low, from_words(_mm512_slli_epi32(words, 16)));
            high = sub(high, from_words(_mm512_and_si512(words, _mm512_set1_epi32(~0xffff))));
          }
        }
      }
    }
  }
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
