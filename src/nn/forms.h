// The forms layers ask of their weights, and how the pinned tensors are run.
#pragma once

#include "memory/weight.h"
#include "nn/onednn.h"

namespace atelier::nn {

/// A matrix for `run_linear`; several operands are joined along dim 0.
Form linear_form();
/// A kernel for `run_conv`.
Form conv_form(onednn::ConvGeometry geometry);
/// Scale or shift of a norm: fp32 on the CPU, the compute dtype elsewhere.
Form norm_form(const Compute& compute);

/// The pinned tensor of a weight, or undefined for an empty handle.
at::Tensor pinned(const Weight& weight);

}  // namespace atelier::nn
