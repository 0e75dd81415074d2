// Which kernel does a convolution: Winograd for 3x3, a linear layer for 1x1, libtorch for the rest.
#pragma once

#include "device/cpu/x86/simd/linear.h"
#include "device/cpu/x86/simd/winograd.h"

namespace atelier {
namespace {

/// Few channels leave the transforms more work than the products save.
constexpr int64_t kFewestChannels = 32;

/// A kernel of one pixel is a linear layer over pixels.
inline bool is_pointwise(const CpuConv& layer) {
  return layer.kernel == 1 && layer.stride == 1 && layer.pad_begin == 0 && layer.pad_end == 0 &&
         !layer.upsample;
}
inline CpuLinear pointwise(const CpuConv& layer) {
  return {layer.type, layer.inputs, layer.outputs};
}
/// Runs such a layer by `linear(CpuLinear, CpuLinearRun)`: once, or for each picture with a bias of
/// its own.
template <class F>
void run_pointwise(const CpuConv& layer, const CpuConvRun& run, const F& linear) {
  const int64_t size = layer.type == CpuType::fp32 ? 4 : 2;
  const int64_t pictures = run.bias_batch_stride == 0 ? 1 : run.input.batch;
  const int64_t rows = run.input.batch * run.input.height * run.input.width / pictures;
  for (int64_t i = 0; i < pictures; ++i) {
    linear(
        pointwise(layer),
        CpuLinearRun{.rows = rows,
                     .x = static_cast<const char*>(run.x) + i * rows * layer.inputs * size,
                     .x_stride = layer.inputs,
                     .packed = run.packed,
                     .bias = run.bias == nullptr ? nullptr : run.bias + i * run.bias_batch_stride,
                     .y = static_cast<char*>(run.y) + i * rows * layer.outputs * size,
                     .y_stride = layer.outputs,
                     .accumulate = run.accumulate});
  }
}

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
    parallel_for(parallel, conv.weight_blocks(), [&](int64_t begin, int64_t end) {
      uint32_t* out = static_cast<uint32_t*>(packed);
      for (int64_t i = begin; i < end; ++i) {
        with_weights(weights, [&](const auto* numbers) { conv.pack(numbers, i, out); });
      }
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
