// The table of samplers and what their functions have in common.
#include "sampling/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "sampling/brownian.h"
#include "sampling/integrators.h"
#include "sampling/lookup.h"
#include "sampling/names.h"

namespace atelier {
namespace {

constexpr auto kAncestral = NoiseKind::ancestral;
constexpr auto kBrownian = NoiseKind::brownian;

// The *_gpu samplers differ from their namesakes only in where ComfyUI draws their noise.
constexpr std::array<Sampler, 42> kSamplers{{
    {"euler", sample_euler},
    {"euler_cfg_pp", sample_euler_cfg_pp, {.needs_uncond = true}},
    {"euler_ancestral", sample_euler_ancestral, {.noise = kAncestral}},
    {"euler_ancestral_cfg_pp",
     sample_euler_ancestral_cfg_pp,
     {.noise = kAncestral, .needs_uncond = true}},
    {"heun", sample_heun},
    {"heunpp2", sample_heunpp2},
    {"dpm_2", sample_dpm_2, {.drop_penultimate = true}},
    {"dpm_2_ancestral", sample_dpm_2_ancestral, {.noise = kAncestral, .drop_penultimate = true}},
    {"lms", sample_lms},
    {"dpm_fast", sample_dpm_fast},
    {"dpm_adaptive", sample_dpm_adaptive},
    {"dpmpp_2s_ancestral", sample_dpmpp_2s_ancestral, {.noise = kAncestral}},
    {"dpmpp_2s_ancestral_cfg_pp",
     sample_dpmpp_2s_ancestral_cfg_pp,
     {.noise = kAncestral, .needs_uncond = true}},
    {"dpmpp_sde", sample_dpmpp_sde, {.noise = kBrownian}},
    {"dpmpp_sde_gpu", sample_dpmpp_sde, {.noise = kBrownian}},
    {"dpmpp_2m", sample_dpmpp_2m},
    {"dpmpp_2m_cfg_pp", sample_dpmpp_2m_cfg_pp, {.needs_uncond = true}},
    {"dpmpp_2m_sde", sample_dpmpp_2m_sde, {.noise = kBrownian}},
    {"dpmpp_2m_sde_gpu", sample_dpmpp_2m_sde, {.noise = kBrownian}},
    {"dpmpp_2m_sde_heun", sample_dpmpp_2m_sde_heun, {.noise = kBrownian}},
    {"dpmpp_2m_sde_heun_gpu", sample_dpmpp_2m_sde_heun, {.noise = kBrownian}},
    {"dpmpp_3m_sde", sample_dpmpp_3m_sde, {.noise = kBrownian}},
    {"dpmpp_3m_sde_gpu", sample_dpmpp_3m_sde, {.noise = kBrownian}},
    {"ddpm", sample_ddpm, {.noise = kAncestral}},
    {"lcm", sample_lcm, {.noise = kAncestral}},
    {"ipndm", sample_ipndm},
    {"ipndm_v", sample_ipndm_v},
    {"deis", sample_deis},
    {"res_multistep", sample_res_multistep},
    {"res_multistep_cfg_pp", sample_res_multistep_cfg_pp, {.needs_uncond = true}},
    {"res_multistep_ancestral", sample_res_multistep_ancestral, {.noise = kAncestral}},
    {"res_multistep_ancestral_cfg_pp",
     sample_res_multistep_ancestral_cfg_pp,
     {.noise = kAncestral, .needs_uncond = true}},
    {"gradient_estimation", sample_gradient_estimation},
    {"gradient_estimation_cfg_pp", sample_gradient_estimation_cfg_pp, {.needs_uncond = true}},
    {"er_sde", sample_er_sde, {.noise = kAncestral}},
    {"seeds_2", sample_seeds_2, {.noise = kAncestral}},
    {"seeds_3", sample_seeds_3, {.noise = kAncestral}},
    {"sa_solver", sample_sa_solver, {.noise = kAncestral}},
    {"sa_solver_pece", sample_sa_solver_pece, {.noise = kAncestral}},
    {"ddim", sample_euler, {.fresh_mask_noise = true}},
    {"uni_pc", sample_uni_pc, {.drop_penultimate = true, .final_sigma = 0.001f}},
    {"uni_pc_bh2", sample_uni_pc_bh2, {.drop_penultimate = true, .final_sigma = 0.001f}},
}};

static_assert(same_names(kSamplers, kSamplerNames), "names.h lists the samplers in this order");

}  // namespace

std::span<const Sampler> samplers() { return kSamplers; }

const Sampler& find_sampler(std::string_view name) { return find_row(samplers(), "sampler", name); }

std::unique_ptr<NoiseSource> noise_source(const Sampler& sampler, at::IntArrayRef shape,
                                          uint64_t seed, Sigmas sigmas) {
  if (sampler.traits.noise == NoiseKind::none) return nullptr;
  if (sampler.traits.noise == NoiseKind::ancestral)
    return std::make_unique<AncestralNoise>(shape, seed);
  float smallest = INFINITY, largest = 0;
  for (const float sigma : sigmas) {
    if (sigma > 0) smallest = std::min(smallest, sigma);
    largest = std::max(largest, sigma);
  }
  // A single step to 0 takes no noise.
  if (!(smallest < largest)) return nullptr;
  return std::make_unique<BrownianNoise>(shape, smallest, largest, seed);
}

AncestralStep ancestral_step(double from, double to, double eta) {
  if (eta == 0 || to == 0) return {to, 0};
  const double all = to * std::sqrt(std::max(0.0, 1 - (to / from) * (to / from)));
  const double up = std::min(to, eta * all);
  return {std::sqrt(to * to - up * up), up};
}

AncestralStep flow_ancestral_step(double from, double to) {
  const double down = to * (to / from);
  const double rescale = (1 - to) / (1 - down);
  const double up = std::sqrt(std::max(0.0, to * to - down * down * rescale * rescale));
  return {down, up, rescale};
}

Tensor move(const Tensor& x, const Tensor& denoised, double from, double to) {
  if (to == 0) return denoised;
  return combine({{to / from, x}, {1 - to / from, denoised}});
}

Tensor renoise(const SamplerContext& context, Tensor x, const AncestralStep& step, double from,
               double to) {
  if (to == 0) return x;
  return combine({{step.rescale, x}, {step.up, context.noise->next(from, to)}});
}

void report(const SamplerContext& context, size_t index, Sigmas sigmas, const Tensor& x,
            const Tensor& denoised) {
  if (!context.on_step) return;
  context.on_step(
      {static_cast<int>(index), static_cast<int>(sigmas.size() - 1), sigmas[index], x, denoised});
}

std::vector<float> finite_snr(const ModelSampling& model, Sigmas sigmas) {
  std::vector<float> result(sigmas.begin(), sigmas.end());
  if (model.is_flow() && result.front() >= 1)
    result.front() = static_cast<float>(model.percent_to_sigma(1e-4));
  return result;
}

}  // namespace atelier
