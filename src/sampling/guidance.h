// Guidance: from a network's raw output to the one denoised answer that samplers see.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <stop_token>

#include "sampling/sampler.h"

namespace atelier {

/// Which of the two prompts an output is for. The order of a batch: uncond first.
enum class Branch { uncond, cond };

/// One evaluation of the network.
struct ModelInput {
  const Tensor& x;  // [B, C, ...] float32 on the CPU, already scaled for the network
  double timestep;
  double sigma;  // for conditionings that hold over a part of the schedule only
  std::span<const Branch> branches;
};

/// The network: its raw output for every branch in order, [branches * B, C, ...], any float dtype.
/// Whether the branches run as one batch is its own affair.
using ModelCall = std::function<Tensor(const ModelInput& input)>;

/// Classifier-free guidance (Ho & Salimans 2022): uncond + (cond - uncond) * cfg on denoised
/// answers. A cfg of 1 (to 1e-9) leaves the uncond branch out unless `needs_uncond`.
/// Before every evaluation the result throws `cancelled` if `stop` was requested; it throws
/// `mismatch` if the output's shape is not the input's. `model` and `call` are kept by reference.
Denoise guided(const ModelSampling& model, const ModelCall& call, double cfg, bool needs_uncond,
               std::stop_token stop);

}  // namespace atelier
