// Prepacked matrices and convolutions of oneDNN, through the operators libtorch keeps for its
// compiler.
#pragma once

#include <ATen/core/Tensor.h>

#include "memory/weight.h"

namespace atelier::nn::onednn {

using at::Tensor;

/// Whether packed weights of this dtype run natively on this CPU.
bool packs(const Compute& compute);

/// Stride and padding, equal in both directions.
struct ConvGeometry {
  int64_t stride = 1, padding = 0;
};

/// [out, in] -> packed for `linear`.
Tensor pack_linear(const Tensor& weight);
/// [out, in, k, k] -> packed for `conv` and `conv_add`.
Tensor pack_conv(const Tensor& weight, ConvGeometry geometry);

/// [out, in] -> packed for `linear_add`.
Tensor pack_linear_add(const Tensor& weight);

/// x [..., in] -> [..., out]; `bias` may be undefined.
Tensor linear(const Tensor& x, const Tensor& packed, const Tensor& bias);
/// y += linear(x), in place; y contiguous. A convolution, for only those write into a sum.
void linear_add(Tensor& y, const Tensor& x, const Tensor& packed, const Tensor& bias);
/// x [B, in, H, W] channels-last -> [B, out, H', W'] channels-last.
Tensor conv(const Tensor& x, const Tensor& packed, const Tensor& bias, ConvGeometry geometry);
/// y += conv(x), in place; y channels-last.
void conv_add(Tensor& y, const Tensor& x, const Tensor& packed, const Tensor& bias,
              ConvGeometry geometry);

}  // namespace atelier::nn::onednn
