// Puts noise, schedule, guidance, mask and sampler of one job together.
#include "sampling/sample.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "sampling/noise_mask.h"
#include "sampling/schedulers.h"

namespace atelier {
namespace {

void check(const SampleJob& job) {
  if (!std::isfinite(job.cfg))
    throw Error(ErrorCode::invalid_argument, {"cfg", "a number", std::to_string(job.cfg)});
  if (job.start_at_step < 0 || job.end_at_step < 0)
    throw Error(ErrorCode::invalid_argument,
                {"start and end step", "0 or more",
                 std::to_string(std::min(job.start_at_step, job.end_at_step))});
  const Tensor& latent = job.latent;
  const bool fits = latent.defined() && (latent.dim() == 4 || latent.dim() == 5) &&
                    latent.numel() > 0 && latent.device().is_cpu() &&
                    at::isFloatingType(latent.scalar_type());
  if (!fits)
    throw Error(ErrorCode::mismatch,
                {.subject = "latent",
                 .expected = "must be [batch, channels, (frames,) height, width] of floats in "
                             "main memory, none of them 0"});
}

Tensor start_noise(const SampleJob& job, const Tensor& latent) {
  if (job.start_noise == StartNoise::none) return at::zeros_like(latent);
  if (!job.batch_index.empty()) return initial_noise(latent.sizes(), job.seed, job.batch_index);
  return initial_noise(latent.sizes(), job.seed);
}

/// Ancestral noise must not repeat the start noise, so its generator starts from the next seed.
uint64_t step_seed(const SampleJob& job, const Sampler& sampler) {
  return sampler.traits.noise == NoiseKind::ancestral ? job.seed + 1 : job.seed;
}

}  // namespace

std::vector<float> sigmas_of(const SampleJob& job) {
  const SamplerTraits& traits = find_sampler(job.sampler).traits;
  std::vector<float> sigmas = job_sigmas(job.model, find_scheduler(job.scheduler), job.steps,
                                         job.denoise, traits.drop_penultimate);
  const auto end = static_cast<size_t>(std::max(job.end_at_step, 0));
  if (end + 1 < sigmas.size()) {
    sigmas.resize(end + 1);
    if (job.ending == Ending::denoised) sigmas.back() = 0;
  }
  const auto start = static_cast<size_t>(std::max(job.start_at_step, 0));
  if (start + 1 >= sigmas.size()) return {};
  sigmas.erase(sigmas.begin(), sigmas.begin() + static_cast<std::ptrdiff_t>(start));
  sigmas.erase(std::unique(sigmas.begin(), sigmas.end()), sigmas.end());
  if (sigmas.back() == 0) sigmas.back() = traits.final_sigma;
  return sigmas;
}

Sampled sample(const SampleJob& job, const ModelCall& call, const StepCallback& on_step,
               std::stop_token stop) {
  check(job);
  const Sampler& sampler = find_sampler(job.sampler);
  const std::vector<float> sigmas = sigmas_of(job);
  if (sigmas.size() < 2) return {job.latent, job.latent};

  const Tensor latent = job.latent.to(at::kFloat).contiguous();
  const Tensor noise = start_noise(job, latent);
  Denoise denoise = guided(job.model, call, job.cfg, sampler.traits.needs_uncond, std::move(stop));
  if (job.mask.defined()) {
    const Tensor outside =
        sampler.traits.fresh_mask_noise ? initial_noise(latent.sizes(), job.seed + 1) : noise;
    denoise = masked(job.model, denoise, fit_mask(job.mask, latent.sizes()), outside, latent);
  }
  Sampled result;
  const StepCallback remember = [&](const Step& step) {
    result.denoised = step.denoised;
    if (on_step) on_step(step);
  };
  const auto source = noise_source(sampler, latent.sizes(), step_seed(job, sampler), sigmas);
  const SamplerContext context{denoise, job.model, source.get(), remember};
  const Tensor x =
      sampler.integrate(context, job.model.start(sigmas.front(), noise, latent), sigmas);
  result.latent = job.model.finish(sigmas.back(), x);
  return result;
}

}  // namespace atelier
