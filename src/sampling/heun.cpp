// Second-order one-step samplers: Heun, Heun++ and the midpoint method in log sigma.
// Source: Karras et al. 2022, algorithm 1; k-diffusion's dpm_2; Heun++ of the sampler's author.
#include "sampling/integrators.h"

namespace atelier {
namespace {

/// One midpoint step of dpm_2 from `from` to `to`; an Euler step if `to` is 0.
Tensor midpoint_step(const SamplerContext& context, const Tensor& x, const Tensor& denoised,
                     double from, double to) {
  if (to == 0) return move(x, denoised, from, to);
  const double middle = geometric_mean(from, to);
  const Tensor x_middle = move(x, denoised, from, middle);
  const Tensor d = slope(x_middle, context.denoise(x_middle, middle).guided, middle);
  return combine({{1, x}, {to - from, d}});
}

}  // namespace

Tensor sample_heun(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    const Tensor end = move(x, denoised, from, to);
    if (to == 0) {
      x = end;
      continue;
    }
    const Tensor d = slope(x, denoised, from);
    const Tensor d_end = slope(end, context.denoise(end, to).guided, to);
    x = combine({{1, x}, {(to - from) / 2, d}, {(to - from) / 2, d_end}});
  }
  return x;
}

/// Slopes at up to three sigmas, weighted by sigma / (count * first sigma).
Tensor sample_heunpp2(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  const double largest = sigmas.front(), last = sigmas.back();
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    const Tensor x_2 = move(x, denoised, from, to);
    if (to == last) {
      x = x_2;
      continue;
    }
    const Tensor d = slope(x, denoised, from);
    const Tensor d_2 = slope(x_2, context.denoise(x_2, to).guided, to);
    const double after = sigmas[i + 2], step = to - from;
    if (after == last) {
      const double w_2 = to / (2 * largest);
      x = combine({{1, x}, {step * (1 - w_2), d}, {step * w_2, d_2}});
      continue;
    }
    const Tensor x_3 = combine({{1, x_2}, {after - to, d_2}});
    const Tensor d_3 = slope(x_3, context.denoise(x_3, after).guided, after);
    const double w_2 = to / (3 * largest), w_3 = after / (3 * largest);
    x = combine({{1, x}, {step * (1 - w_2 - w_3), d}, {step * w_2, d_2}, {step * w_3, d_3}});
  }
  return x;
}

Tensor sample_dpm_2(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const Tensor denoised = context.denoise(x, sigmas[i]).guided;
    report(context, i, sigmas, x, denoised);
    x = midpoint_step(context, x, denoised, sigmas[i], sigmas[i + 1]);
  }
  return x;
}

Tensor sample_dpm_2_ancestral(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    const AncestralStep step =
        context.model.is_flow() ? flow_ancestral_step(from, to) : ancestral_step(from, to, 1);
    x = renoise(context, midpoint_step(context, x, denoised, from, step.down), step, from, to);
  }
  return x;
}

}  // namespace atelier
