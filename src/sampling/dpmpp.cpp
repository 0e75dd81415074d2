// DPM-Solver++ (Lu et al. 2022b) without noise of its own: two evaluations (2S), or one and memory
// (2M). Times are t = -ln sigma, as k-diffusion has them, for flow models too.
#include <cmath>

#include "sampling/integrators.h"

namespace atelier {
namespace {

/// The middle between two sigmas of a flow model in log signal to noise ratio; just below 1 from 1.
double flow_middle(const ModelSampling& model, double from, double to) {
  if (from >= 1) return 0.9999;
  return model.sigma_of_half_log_snr((model.half_log_snr(from) + model.half_log_snr(to)) / 2);
}

}  // namespace

Tensor sample_dpmpp_2s_ancestral(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  const bool flow = context.model.is_flow();
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    const AncestralStep step = flow ? flow_ancestral_step(from, to) : ancestral_step(from, to, 1);
    if (step.down == 0) {
      x = renoise(context, denoised, step, from, to);
      continue;
    }
    const double between =
        flow ? flow_middle(context.model, from, step.down) : geometric_mean(from, step.down);
    const Tensor u = move(x, denoised, from, between);
    const Tensor denoised_2 = context.denoise(u, between).guided;
    x = renoise(context, move(x, denoised_2, from, step.down), step, from, to);
  }
  return x;
}

Tensor sample_dpmpp_2s_ancestral_cfg_pp(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Denoised d = context.denoise(x, from);
    report(context, i, sigmas, x, d.guided);
    const AncestralStep step = ancestral_step(from, to, 1);
    if (step.down == 0) {
      x = renoise(context, d.guided, step, from, to);
      continue;
    }
    // The same integrator, from x shifted by what guidance added to the answer.
    const auto shifted = [&](const Denoised& shift, const Tensor& target, double end) {
      const double ratio = end / from;
      return combine(
          {{ratio, x}, {ratio, shift.guided}, {-ratio, shift.uncond}, {1 - ratio, target}});
    };
    const double between = geometric_mean(from, step.down);
    const Tensor u = shifted(d, d.guided, between);
    const Denoised d_2 = context.denoise(u, between);
    x = shifted({d.guided, d_2.uncond}, d_2.guided, step.down);
    x = renoise(context, x, step, from, to);
  }
  return x;
}

Tensor sample_dpmpp_2m(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  Tensor previous;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    if (previous.defined() && to > 0) {
      const double h = std::log(from / to), h_last = std::log(sigmas[i - 1] / from);
      const double extra = h / h_last / 2, share = 1 - to / from;
      x = combine({{to / from, x}, {share * (1 + extra), denoised}, {-share * extra, previous}});
    } else {
      x = move(x, denoised, from, to);
    }
    previous = denoised;
  }
  return x;
}

Tensor sample_dpmpp_2m_cfg_pp(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  Tensor previous;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Denoised d = context.denoise(x, from);
    report(context, i, sigmas, x, d.guided);
    const double ratio = to / from;
    if (previous.defined() && to > 0) {
      const double h = std::log(from / to), h_last = std::log(sigmas[i - 1] / from);
      const double extra = (1 - ratio) * h / h_last / 2;
      x = combine({{ratio, x}, {1 + extra, d.guided}, {-ratio, d.uncond}, {-extra, previous}});
    } else {
      x = combine({{ratio, x}, {1, d.guided}, {-ratio, d.uncond}});
    }
    previous = d.uncond;
  }
  return x;
}

}  // namespace atelier
