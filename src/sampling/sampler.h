// Samplers: how x moves from the first sigma of a schedule to the last. Jobs use sample.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "sampling/model_sampling.h"
#include "sampling/noise.h"

namespace atelier {

using at::Tensor;

/// What the model thinks is under the noise, float32 on the CPU, of x's shape.
struct Denoised {
  Tensor guided;  // after guidance: what a step moves towards
  Tensor uncond;  // the negative prompt's own; defined if the sampler `needs_uncond`
};

/// One evaluation of the guided model at x and sigma > 0; all that samplers know of a model.
using Denoise = std::function<Denoised(const Tensor& x, double sigma)>;

/// The state at the beginning of a step. Tensors are float32 on the CPU and stay unchanged.
struct Step {
  int index;  // 0 to count - 1
  int count;
  double sigma;
  const Tensor& x;
  const Tensor& denoised;
};

using StepCallback = std::function<void(const Step&)>;

/// What a sampler works with beside x. Lives as long as the sampling; one thread.
struct SamplerContext {
  const Denoise& denoise;
  const ModelSampling& model;
  NoiseSource* noise;  // null if the sampler draws none
  const StepCallback& on_step;
};

/// Falling sigmas, no two equal, the last one possibly 0.
using Sigmas = std::span<const float>;

enum class NoiseKind { none, ancestral, brownian };

/// What a sampler asks of the job around it.
struct SamplerTraits {
  NoiseKind noise = NoiseKind::none;
  bool needs_uncond = false;  // the negative is evaluated even at cfg 1
  bool drop_penultimate = false;  // the schedule leaves its last sigma above 0 out
  bool fresh_mask_noise = false;  // masked areas get noise of seed + 1 instead of the start noise
  float final_sigma = 0;  // takes the place of a last sigma of 0
};

/// One sampler: its name in ComfyUI and its function, which takes x at sigmas[0] (at least two
/// sigmas) and returns x at the last.
struct Sampler {
  std::string_view name;
  Tensor (*integrate)(const SamplerContext& context, Tensor x, Sigmas sigmas);
  SamplerTraits traits = {};
};

/// All of them, in the order ComfyUI lists them.
std::span<const Sampler> samplers();

/// Throws `invalid_argument` with the nearest name if there is none called `name`.
const Sampler& find_sampler(std::string_view name);

/// The noise that `sampler` draws in a job over `sigmas`; null if it draws none.
/// x's shape, `seed` of the generator itself (jobs seed ancestral noise with their seed + 1).
std::unique_ptr<NoiseSource> noise_source(const Sampler& sampler, at::IntArrayRef shape,
                                          uint64_t seed, Sigmas sigmas);

}  // namespace atelier
