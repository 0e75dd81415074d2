// Linear layers as 8-bit integers on register tiles: the walk of linear_kernel.h over rows and
// weights of quantise.h. Products take the integers of x without sign, so 128 is added to them, and
// 128 times the sum of its weights taken from each output's sums. Behind the packed panels lie the
// outputs' scales, fp32, and those sums of weights, int32.
#pragma once

#include "device/cpu/x86/simd/linear_kernel.h"

namespace atelier {
namespace {

template <class T>
struct Products<Quantised<T>> {
  static constexpr int kWord = 4;
  static constexpr int kOffset = 128;  // of x
  static constexpr int64_t kOutputBytes = sizeof(float) + sizeof(int32_t);
  static int64_t words(int64_t inputs) { return divide_up(inputs, kQuad) * kLanes; }
  ATELIER_INLINE_MEMBER static Vec dot(Vec acc, Words b, const uint32_t* a) {
    return from_words(dot_bytes(to_words(acc), b, a));
  }
};

template <class T>
class Columns<Quantised<T>> {
 public:
  Columns(const float* bias, const void* behind, int64_t outputs, int64_t output, Lanes lanes) {
    const float* at = static_cast<const float*>(behind) + output;
    bias_ = bias == nullptr ? zero() : load(bias + output, lanes);
    scale_ = load(at, lanes);
    offset_ = to_words(load(at + outputs, lanes));
  }
  ATELIER_INLINE_MEMBER Vec finish(const float* sums, const float* scales, int64_t row) const {
    const Words whole = sub_words(to_words(load_aligned(sums)), offset_);
    return fma(mul(to_numbers(whole), splat(scales[row])), scale_, bias_);
  }

 private:
  Vec bias_, scale_;
  Words offset_;
};

/// kLanes columns from `column` of a panel on: outputs from `output` on, `present` of which exist.
template <class S>
void pack_quantised_columns(const S* rows, int64_t inputs, int64_t present, uint32_t* panel,
                            int64_t column, float* scales, int32_t* offsets) {
  // Quad by quad, so each row's scale is found before any of its integers is wanted.
  const int64_t quads = divide_up(inputs, kQuad);
  const Scratch memory(quads * kLanes * kLanes * int64_t{sizeof(uint32_t)});
  uint32_t* const words = static_cast<uint32_t*>(memory.data());  // [kLanes outputs][quads][kLanes]
  for (int64_t i = 0; i < kLanes; ++i) {
    uint32_t* const to = words + i * quads * kLanes;
    Words sums = splat_word(0);
    if (i >= present) {
      for (int64_t quad = 0; quad < quads; ++quad) store_words_raw(to + quad * kLanes, sums);
      continue;
    }
    const uint32_t ones = 0x01010101;
    scales[i] = quantise_row(rows + i * inputs, inputs, 0, [&](int64_t quad, Words bytes) {
      store_words_raw(to + quad * kLanes, bytes);
      sums = dot_bytes(sums, bytes, &ones);
    });
    alignas(64) int32_t parts[kLanes];
    store_words_raw(parts, sums);
    offsets[i] = 0;
    for (const int32_t part : parts) offsets[i] += 128 * part;
  }
  for (int64_t quad = 0; quad < quads; ++quad) {
    Words block[kLanes];
    ATELIER_UNROLL for (int i = 0; i < kLanes; ++i) {
      block[i] = load_words_raw(words + (i * quads + quad) * kLanes);
    }
    transpose(block);
    uint32_t* const to = panel + quad * kLanes * kPanel + column;
    ATELIER_UNROLL for (int i = 0; i < kLanes; ++i) store_words_raw(to + i * kPanel, block[i]);
  }
}

/// Calls body(LinearKernel<Quantised<T>>) for the layer's type.
template <class F>
auto with_int8(const CpuLinear& layer, const F& body) {
  return layer.type == CpuType::fp32 ? body(LinearKernel<Quantised<float>>(layer))
                                     : body(LinearKernel<Quantised<Bf16>>(layer));
}

bool int8_supported(const CpuLinear& layer) {
  return (layer.epilogue != CpuEpilogue::geglu || layer.outputs % 2 == 0) &&
         layer.inputs <= kMostQuantisedInputs && layer.tail == 0;
}
int64_t int8_weight_bytes(const CpuLinear& layer) {
  return with_int8(layer, [](const auto& kernel) { return kernel.weight_bytes(); });
}
void pack_int8(const CpuLinear& layer, const CpuWeights& weights, void* packed,
               const Parallel& parallel) {
  with_int8(layer, [&](const auto& kernel) {
    char* const panels = static_cast<char*>(packed);
    float* const scales = reinterpret_cast<float*>(panels + kernel.panels_bytes());
    int32_t* const offsets = reinterpret_cast<int32_t*>(scales + layer.outputs);
    for_weights(
        weights, layer.inputs, kLanes, kernel.panels(), parallel,
        [&](const auto& all, int64_t panel) {
          auto* const words = reinterpret_cast<uint32_t*>(panels + panel * kernel.panel_bytes());
          kernel.for_columns(
              all, panel, [&](const auto* rows, int64_t present, int64_t output, int64_t column) {
                pack_quantised_columns(rows, layer.inputs, present, words, column, scales + output,
                                       offsets + output);
              });
        });
  });
}
void linear_int8(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  with_int8(layer, [&](const auto& kernel) { kernel.run(run, parallel); });
}

}  // namespace
}  // namespace atelier
