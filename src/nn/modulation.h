// Adaptive layers: a norm scaled and shifted, and a residual gated, by what a vector says.
// Source: Peebles and Xie 2022, Scalable Diffusion Models with Transformers, section 3.2 (adaLN).
#pragma once

#include <ATen/core/Tensor.h>

namespace atelier::nn {

using at::Tensor;

/// norm(x) * (1 + scale) + shift, where norm is a layer norm without weights.
/// x [B, L, C], shift and scale [B, C] -> [B, L, C] contiguous; statistics in fp32.
Tensor modulate(const Tensor& x, const Tensor& shift, const Tensor& scale, double eps = 1e-6);

/// y += gate * x; y and x [B, L, C], gate [B, C].
void add_gated(Tensor& y, const Tensor& gate, const Tensor& x);

}  // namespace atelier::nn
