// Exponential integrators for the reverse SDE: SEEDS (Gonzalez et al. 2023) with one and two inner
// stages, and ER-SDE (Cui et al. 2023) with up to three past answers.
// lambda is half the log signal to noise ratio, alpha = sigma e^lambda the picture's weight.
#include <array>
#include <cmath>

#include "sampling/integrators.h"

namespace atelier {
namespace {

/// The process of one SEEDS step, followed from its start to a share of it in lambda (eta 1).
class SeedsStep {
 public:
  SeedsStep(const ModelSampling& model, double from, double to)
      : model_(model),
        from_(from),
        to_(to),
        lambda_(model.half_log_snr(from)),
        h_(model.half_log_snr(to) - lambda_) {}

  double h() const { return h_; }
  double sigma(double share) const {
    return share == 1 ? to_ : model_.sigma_of_half_log_snr(lambda_ + share * h_);
  }
  double alpha(double share) const { return sigma(share) * std::exp(lambda_ + share * h_); }
  double keep(double share) const { return sigma(share) / from_ * std::exp(-share * h_); }
  double answer(double share) const { return -alpha(share) * std::expm1(-2 * share * h_); }
  /// The weight of an answer's change since the start, at `share`.
  double curve(double share) const {
    return alpha(share) * (std::expm1(-2 * share * h_) / (2 * share * h_) + 1);
  }
  /// The deviation at `share` of noise that entered between the shares `begin` and `end`.
  double noise(double share, double begin, double end) const {
    return sigma(share) * std::exp(-(share - end) * h_) *
           std::sqrt(-std::expm1(-2 * (end - begin) * h_));
  }

 private:
  const ModelSampling& model_;
  double from_, to_, lambda_, h_;
};

/// How far ER-SDE's process forgets x (Cui et al. 2023, section 4.2), for lambda = sigma / alpha.
double forgetting(double lambda) { return lambda * (std::exp(std::pow(lambda, 0.3)) + 10); }

/// Integrals of 1 / forgetting(l) and (l - from) / forgetting(l) from `to` up to `from`, by 200
/// left ends as the reference sums them.
struct Integrals {
  double zeroth = 0, first = 0;
};

Integrals er_integrals(double from, double to) {
  constexpr int kPoints = 200;
  const double width = (from - to) / kPoints;
  Integrals sum;
  for (int point = 0; point < kPoints; ++point) {
    const double lambda = to + point * width;
    sum.zeroth += width / forgetting(lambda);
    sum.first += width * (lambda - from) / forgetting(lambda);
  }
  return sum;
}

}  // namespace

Tensor sample_seeds_2(const SamplerContext& context, Tensor x, Sigmas schedule) {
  const std::vector<float> sigmas = finite_snr(context.model, schedule);
  constexpr double r = 0.5;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    if (to == 0) {
      x = denoised;
      continue;
    }
    const SeedsStep step(context.model, from, to);
    const double middle = step.sigma(r);
    const Tensor noise_1 = context.noise->next(from, middle);
    const Tensor noise_2 = context.noise->next(middle, to);
    const Tensor u =
        combine({{step.keep(r), x}, {step.answer(r), denoised}, {step.noise(r, 0, r), noise_1}});
    const Tensor denoised_2 = context.denoise(u, middle).guided;
    x = combine({{step.keep(1), x},
                 {step.answer(1), denoised_2},
                 {step.noise(1, 0, r), noise_1},
                 {step.noise(1, r, 1), noise_2}});
  }
  return x;
}

Tensor sample_seeds_3(const SamplerContext& context, Tensor x, Sigmas schedule) {
  const std::vector<float> sigmas = finite_snr(context.model, schedule);
  constexpr double r1 = 1.0 / 3, r2 = 2.0 / 3;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    if (to == 0) {
      x = denoised;
      continue;
    }
    const SeedsStep step(context.model, from, to);
    const double sigma_1 = step.sigma(r1), sigma_2 = step.sigma(r2);
    const Tensor noise_1 = context.noise->next(from, sigma_1);
    const Tensor noise_2 = context.noise->next(sigma_1, sigma_2);
    const Tensor noise_3 = context.noise->next(sigma_2, to);
    const Tensor u = combine(
        {{step.keep(r1), x}, {step.answer(r1), denoised}, {step.noise(r1, 0, r1), noise_1}});
    const Tensor denoised_2 = context.denoise(u, sigma_1).guided;
    const double curve_2 = step.curve(r2) * r2 / r1;
    const Tensor v = combine({{step.keep(r2), x},
                              {step.answer(r2) - curve_2, denoised},
                              {curve_2, denoised_2},
                              {step.noise(r2, 0, r1), noise_1},
                              {step.noise(r2, r1, r2), noise_2}});
    const Tensor denoised_3 = context.denoise(v, sigma_2).guided;
    const double curve_3 = step.curve(1) / r2;
    x = combine({{step.keep(1), x},
                 {step.answer(1) - curve_3, denoised},
                 {curve_3, denoised_3},
                 {step.noise(1, 0, r1), noise_1},
                 {step.noise(1, r1, r2), noise_2},
                 {step.noise(1, r2, 1), noise_3}});
  }
  return x;
}

Tensor sample_er_sde(const SamplerContext& context, Tensor x, Sigmas schedule) {
  const ModelSampling& model = context.model;
  const std::vector<float> sigmas = finite_snr(model, schedule);
  const auto lambda = [&](size_t i) { return std::exp(-model.half_log_snr(sigmas[i])); };
  Tensor previous, slope_before;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    const Tensor denoised = context.denoise(x, from).guided;
    report(context, i, sigmas, x, denoised);
    if (to == 0) {
      x = denoised;
      continue;
    }
    const double lambda_from = lambda(i), lambda_to = lambda(i + 1);
    const double alpha_from = from / lambda_from, alpha_to = to / lambda_to;
    const double end = forgetting(lambda_to), r = end / forgetting(lambda_from);
    x = combine({{alpha_to / alpha_from * r, x}, {alpha_to * (1 - r), denoised}});
    if (previous.defined()) {
      const double dt = lambda_to - lambda_from;
      const Integrals sum = er_integrals(lambda_from, lambda_to);
      const Tensor slope_now = difference(denoised, previous, 1 / (lambda_from - lambda(i - 1)));
      x = combine({{1, x}, {alpha_to * (dt + sum.zeroth * end), slope_now}});
      if (slope_before.defined()) {
        const Tensor curve = difference(slope_now, slope_before, 2 / (lambda_from - lambda(i - 2)));
        x = combine({{1, x}, {alpha_to * (dt * dt / 2 + sum.first * end), curve}});
      }
      slope_before = slope_now;
    }
    const double variance = lambda_to * lambda_to - lambda_from * lambda_from * r * r;
    x = combine(
        {{1, x}, {alpha_to * std::sqrt(std::max(0.0, variance)), context.noise->next(from, to)}});
    previous = denoised;
  }
  return x;
}

}  // namespace atelier
