// DPM-Solver++ as stochastic solvers (Lu et al. 2022b, section 5): noise from a Brownian path.
// lambda is half the log signal to noise ratio, alpha = sigma e^lambda the picture's weight.
#include <cmath>

#include "sampling/integrators.h"

namespace atelier {
namespace {

/// One step from `from` to `to` with all the noise the process allows (eta 1): the part of x that
/// stays, the weight of the model's answer, and the deviation of the noise.
struct SdeStep {
  double h, keep, answer, noise, alpha;
};

SdeStep sde_step(const ModelSampling& model, double from, double to) {
  const double lambda = model.half_log_snr(to);
  const double h = lambda - model.half_log_snr(from);
  const double alpha = to * std::exp(lambda);
  return {h, to / from * std::exp(-h), -alpha * std::expm1(-2 * h),
          to * std::sqrt(-std::expm1(-2 * h)), alpha};
}

/// x after the noise of the step is added.
Tensor with_noise(const SamplerContext& context, const Tensor& x, double weight, double from,
                  double to) {
  return combine({{1, x}, {weight, context.noise->next(from, to)}});
}

enum class Correction { midpoint, heun };

Tensor dpmpp_2m_sde(const SamplerContext& context, Tensor x, Sigmas schedule, Correction kind) {
  const std::vector<float> sigmas = finite_snr(context.model, schedule);
  Tensor previous;
  double h_last = 0;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    if (to == 0) {
      x = denoised;
      continue;
    }
    const SdeStep step = sde_step(context.model, from, to);
    double extra = 0;
    if (previous.defined()) {
      const double curve =
          kind == Correction::midpoint ? step.answer / 2 : step.alpha + step.answer / (-2 * step.h);
      extra = curve * step.h / h_last;
    }
    const Tensor& older = previous.defined() ? previous : denoised;
    x = combine({{step.keep, x}, {step.answer + extra, denoised}, {-extra, older}});
    x = with_noise(context, x, step.noise, from, to);
    previous = denoised;
    h_last = step.h;
  }
  return x;
}

}  // namespace

Tensor sample_dpmpp_sde(const SamplerContext& context, Tensor x, Sigmas schedule) {
  const ModelSampling& model = context.model;
  const std::vector<float> sigmas = finite_snr(model, schedule);
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    if (to == 0) {
      x = denoised;
      continue;
    }
    const double lambda = model.half_log_snr(from);
    // An ancestral step from `from` to `end` in sigma / alpha.
    const auto ancestral = [&](const Tensor& answer, double end) {
      const double lambda_end = model.half_log_snr(end);
      const double alpha = from * std::exp(lambda), alpha_end = end * std::exp(lambda_end);
      const AncestralStep step = ancestral_step(std::exp(-lambda), std::exp(-lambda_end), 1);
      const double shrink = step.down / std::exp(-lambda);
      const Tensor moved =
          combine({{alpha_end / alpha * shrink, x}, {alpha_end * (1 - shrink), answer}});
      return with_noise(context, moved, alpha_end * step.up, from, end);
    };
    const double between = model.sigma_of_half_log_snr((lambda + model.half_log_snr(to)) / 2);
    x = ancestral(context.denoise(ancestral(denoised, between), between).guided, to);
  }
  return x;
}

Tensor sample_dpmpp_2m_sde(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return dpmpp_2m_sde(context, x, sigmas, Correction::midpoint);
}

Tensor sample_dpmpp_2m_sde_heun(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return dpmpp_2m_sde(context, x, sigmas, Correction::heun);
}

Tensor sample_dpmpp_3m_sde(const SamplerContext& context, Tensor x, Sigmas schedule) {
  const std::vector<float> sigmas = finite_snr(context.model, schedule);
  Tensor denoised_1, denoised_2;
  double h_1 = 0, h_2 = 0;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    if (to == 0) {
      x = denoised;
      continue;
    }
    const SdeStep step = sde_step(context.model, from, to);
    const double phi_2 = std::expm1(-2 * step.h) / (2 * step.h) + 1;
    const double phi_3 = phi_2 / (2 * step.h) - 0.5;
    x = combine({{step.keep, x}, {step.answer, denoised}});
    if (denoised_1.defined()) {
      const double r_0 = h_1 / step.h;
      const Tensor slope_0 = difference(denoised, denoised_1, 1 / r_0);
      double first = phi_2, second = 0;  // weights of the newer and the older difference
      if (denoised_2.defined()) {
        const double r_1 = h_2 / step.h;
        first = phi_2 * (1 + r_0 / (r_0 + r_1)) - phi_3 / (r_0 + r_1);
        second = phi_2 - first;
        const Tensor slope_1 = difference(denoised_1, denoised_2, 1 / r_1);
        x = combine({{1, x}, {step.alpha * second, slope_1}});
      }
      x = combine({{1, x}, {step.alpha * first, slope_0}});
    }
    x = with_noise(context, x, step.noise, from, to);
    denoised_2 = denoised_1;
    denoised_1 = denoised;
    h_2 = h_1;
    h_1 = step.h;
  }
  return x;
}

}  // namespace atelier
