// Forms of weights for the fallbacks: packed by oneDNN where it packs, plain elsewhere.
#pragma once

#include "memory/weight.h"
#include "nn/onednn.h"

namespace atelier::nn {

/// A matrix for `onednn::linear` or at::linear of `with_side(x)`; several operands are joined along
/// dim 0.
Form linear_form();
/// A matrix for `onednn::linear_add` or at::linear of `with_side(x)`.
Form residual_form();
/// x [..., in], with its products with the weight's low-rank patches as further channels.
at::Tensor with_side(const at::Tensor& x, const Pin& weight);
/// A kernel for `onednn::conv` or at::conv2d.
Form conv_form(onednn::ConvGeometry geometry, bool on_demand = false);
/// A 3x3 kernel [O, C, 3, 3] as the 2x2 kernel [4 O, C, 2, 2] that works on the picture before
/// doubling (device/cpu/conv.h), for `onednn::conv`; and its bias.
Form phase_form();
Form phase_bias_form();
/// Scale or shift of a norm: fp32 on the CPU, the compute dtype elsewhere.
Form norm_form(const Compute& compute);

/// The pinned tensor of a weight, or undefined for an empty handle.
at::Tensor pinned(const Weight& weight);

}  // namespace atelier::nn
