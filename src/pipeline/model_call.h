// The network as the sampler calls it: prompts, sizes and extra channels put in their places.
#pragma once

#include "models/model.h"
#include "pipeline/conditioning.h"
#include "sampling/guidance.h"

namespace atelier {

/// What one run is conditioned on.
struct Guidance {
  Conditioning positive, negative;
  at::Tensor concat;  // [1, C', h, w] for models with more input channels than a latent has
};

/// A call of `model` on the branches asked for, as one batch, uncond first. Keys and values of the
/// prompts are computed at the first call and kept while the result lives. `model` is kept by
/// reference.
ModelCall model_call(const DiffusionModel& model, Guidance guidance);

}  // namespace atelier
