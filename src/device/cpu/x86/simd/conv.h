// Which kernel does a convolution: Winograd for 3x3, a linear layer for 1x1, libtorch for the rest.
#pragma once

#include "device/cpu/x86/simd/linear.h"
#include "device/cpu/x86/simd/pointwise.h"
#include "device/cpu/x86/simd/winograd.h"

namespace atelier {
namespace {

/// Few channels leave the transforms more work than the products save.
constexpr int64_t kFewestChannels = 32;

CpuConvMethod conv_method(const CpuConv& layer) {
  if (is_pointwise(layer)) return CpuConvMethod::direct;
  const bool shape = layer.kernel == 3 && layer.stride == 1 && layer.pad_begin == 1 &&
                     layer.pad_end == 1 && !layer.upsample;
  const bool large = layer.inputs >= kFewestChannels && layer.outputs >= kFewestChannels;
  return shape && large ? CpuConvMethod::winograd : CpuConvMethod::library;
}
int64_t conv_weight_bytes(const CpuConv& layer) {
  if (is_pointwise(layer)) return linear_weight_bytes(pointwise(layer));
  return with_winograd(
      layer, [](const auto& conv) { return conv.weight_words() * int64_t{sizeof(uint32_t)}; });
}
void pack_conv(const CpuConv& layer, const CpuWeights& weights, void* packed,
               const Parallel& parallel) {
  if (is_pointwise(layer)) return pack_linear(pointwise(layer), weights, packed, parallel);
  with_winograd(layer, [&](const auto& conv) {
    for_weights(weights, conv.inputs() * 9, kOutputs, conv.weight_blocks(), parallel,
                [&](const auto& rows, int64_t block) {
                  conv.pack(rows, block, static_cast<uint32_t*>(packed));
                });
  });
}
int64_t conv_scratch_bytes(const CpuConv& layer, const CpuPicture& input, int threads) {
  if (is_pointwise(layer)) {
    return linear_scratch_bytes(pointwise(layer), input.batch * input.height * input.width,
                                threads);
  }
  const TileGrid grid{input.batch, input.height, input.width};
  return with_winograd(layer, [&](const auto& conv) { return conv.scratch_bytes(grid, threads); });
}
void conv(const CpuConv& layer, const CpuConvRun& run, const Parallel& parallel) {
  if (is_pointwise(layer)) {
    return run_pointwise(layer, run, [&](const CpuLinear& as_linear, const CpuLinearRun& rows) {
      linear(as_linear, rows, parallel);
    });
  }
  with_winograd(layer, [&](const auto& winograd) { winograd.run(run, parallel); });
}

}  // namespace
}  // namespace atelier
