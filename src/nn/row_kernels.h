// Plain loops over rows of activations on the CPU, for what the engine's packed kernels leave out.
#pragma once

#include <ATen/core/Tensor.h>

namespace atelier::nn::cpu {

using at::Tensor;

/// x [..., C] fp32 or bf16 with contiguous channels, weight [C] fp32 -> the same, contiguous:
/// x / sqrt(mean(x^2) + eps) * weight.
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps);

/// Turns neighbouring channels of a contiguous x [B, L, H, D], fp32 or bf16, in place:
/// (a, b) -> (a cos - b sin, a sin + b cos). cosines, sines [L, D/2] fp32, contiguous.
void rotate_pairs(Tensor& x, const Tensor& cosines, const Tensor& sines);

}  // namespace atelier::nn::cpu
