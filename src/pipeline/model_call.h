// The network as the sampler calls it: prompts, sizes and extra channels put in their places.
#pragma once

#include <vector>

#include "models/model.h"
#include "pipeline/conditioning.h"
#include "sampling/guidance.h"

namespace atelier {

/// What one run is conditioned on.
struct Guidance {
  Conditioning positive, negative;
  at::Tensor concat;  // [1, C', h, w] for models with more input channels than a latent has
  std::vector<at::Tensor> references = {};  // latents [1, C, h, w] for models that look at them
};

/// A call of `model` on the branches asked for, uncond first: as one batch, or one after the other
/// if their prompts differ in length, where repeating the shorter would count, or too much. Keys
/// and values of the prompts are computed at the first call and kept while the result lives.
/// `model` is kept by reference.
ModelCall model_call(const DiffusionModel& model, Guidance guidance);

}  // namespace atelier
