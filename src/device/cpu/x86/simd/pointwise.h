// Convolutions of one pixel as linear layers.
#pragma once

#include "device/cpu/conv.h"
#include "device/cpu/linear.h"

namespace atelier {
namespace {

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

}  // namespace
}  // namespace atelier
