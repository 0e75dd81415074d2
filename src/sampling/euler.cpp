// First-order samplers: Euler and its relatives, with and without fresh noise.
#include <algorithm>
#include <cmath>

#include "sampling/integrators.h"

namespace atelier {
namespace {

/// CFG++ (Chung et al. 2024): the noise direction comes from the negative prompt's own answer, so
/// guidance moves the picture but not the noise. Weights are those of x = alpha (picture + ratio
/// noise), with alpha 1 for diffusion and 1 - sigma for flow models.
Tensor euler_cfg_pp(const SamplerContext& context, Tensor x, Sigmas sigmas, double eta) {
  const bool flow = context.model.is_flow();
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Denoised d = context.denoise(x, from);
    report(context, i, sigmas, x, d.guided);
    if (to == 0) {
      x = d.guided;
      continue;
    }
    const double alpha_from = flow ? 1 - from : 1, alpha_to = flow ? 1 - to : 1;
    const AncestralStep step = ancestral_step(from / alpha_from, to / alpha_to, eta);
    const double ratio = alpha_to * step.down / from;
    x = combine({{alpha_to, d.guided}, {ratio, x}, {-ratio * alpha_from, d.uncond}});
    if (step.up > 0) x = combine({{1, x}, {alpha_to * step.up, context.noise->next(from, to)}});
  }
  return x;
}

/// Permenter & Yuan 2023, "Interpreting and improving diffusion models from an optimization
/// perspective", algorithm 2 with gamma 2.
Tensor gradient_estimation(const SamplerContext& context, Tensor x, Sigmas sigmas, bool cfg_pp) {
  Tensor previous;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Denoised model = context.denoise(x, from);
    report(context, i, sigmas, x, model.guided);
    if (to == 0) {
      x = model.guided;
      continue;
    }
    const Tensor d = slope(x, cfg_pp ? model.uncond : model.guided, from);
    x = cfg_pp ? combine({{1, model.guided}, {to, d}}) : combine({{1, x}, {to - from, d}});
    if (previous.defined()) x = combine({{1, x}, {to - from, d}, {from - to, previous}});
    previous = d;
  }
  return x;
}

}  // namespace

Tensor sample_euler(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const Tensor denoised = context.denoise(x, sigmas[i]).guided;
    report(context, i, sigmas, x, denoised);
    x = move(x, denoised, sigmas[i], sigmas[i + 1]);
  }
  return x;
}

Tensor sample_euler_cfg_pp(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return euler_cfg_pp(context, x, sigmas, 0);
}

Tensor sample_euler_ancestral_cfg_pp(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return euler_cfg_pp(context, x, sigmas, 1);
}

Tensor sample_euler_ancestral(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    const AncestralStep step =
        context.model.is_flow() ? flow_ancestral_step(from, to) : ancestral_step(from, to, 1);
    x = renoise(context, move(x, denoised, from, step.down), step, from, to);
  }
  return x;
}

/// Ho et al. 2020, equation 11, in x / sqrt(1 + sigma^2).
Tensor sample_ddpm(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    const double bar = 1 / (1 + from * from), bar_next = 1 / (1 + to * to);
    const double alpha = bar / bar_next;
    const double scale = (to == 0 ? 1 : std::sqrt(1 + to * to)) / std::sqrt(alpha);
    const double eps = scale * (1 - alpha) / std::sqrt(1 - bar) / from;
    const double noise = std::sqrt((1 - alpha) * (1 - bar_next) / (1 - bar) * (1 + to * to));
    const double weight = scale * std::sqrt(bar);
    x = combine({{weight - eps, x}, {eps, denoised}});
    if (to > 0) x = combine({{1, x}, {noise, context.noise->next(from, to)}});
  }
  return x;
}

/// Luo et al. 2023: jump to the picture, add new noise.
Tensor sample_lcm(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const Tensor denoised = context.denoise(x, sigmas[i]).guided;
    report(context, i, sigmas, x, denoised);
    const double to = sigmas[i + 1];
    x = to > 0 ? context.model.add_noise(to, context.noise->next(sigmas[i], to), denoised)
               : denoised;
  }
  return x;
}

Tensor sample_gradient_estimation(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return gradient_estimation(context, x, sigmas, false);
}

Tensor sample_gradient_estimation_cfg_pp(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return gradient_estimation(context, x, sigmas, true);
}

}  // namespace atelier
