// Plain loops over rows of activations on the CPU, for what the engine's packed kernels leave out.
#pragma once

#include <ATen/core/Tensor.h>

namespace atelier::nn::cpu {

using at::Tensor;

/// x [..., C] with contiguous channels, weight [C] fp32 -> the same in `dtype`, contiguous:
/// x / sqrt(mean(x^2) + eps) * weight. Both dtypes fp32 or bf16.
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps, at::ScalarType dtype);

/// Turns neighbouring channels of a contiguous x [B, L, H, D], fp32 or bf16, in place:
/// (a, b) -> (a cos - b sin, a sin + b cos). cosines, sines [L, D/2] fp32, contiguous.
void rotate_pairs(Tensor& x, const Tensor& cosines, const Tensor& sines);

}  // namespace atelier::nn::cpu
