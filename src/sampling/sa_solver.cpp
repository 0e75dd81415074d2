// SA-Solver (Xue et al. 2023): stochastic Adams predictor (order 3) and corrector (order 4).
// lambda is half the log signal to noise ratio; tau sets how much noise a step takes.
#include <algorithm>
#include <cmath>
#include <deque>

#include "sampling/integrators.h"

namespace atelier {
namespace {

constexpr size_t kPredictorOrder = 3, kCorrectorOrder = 4;

/// J_p = y * integral over [0, 1] of e^{-y s} s^p for p = 0, 1, ...: by series where integration by
/// parts would cancel.
std::vector<double> exponential_moments(double y, size_t count) {
  std::vector<double> moments(count);
  for (size_t p = 0; p < count; ++p) {
    const auto power = static_cast<double>(p);
    if (y < 1) {
      double term = y;
      for (int k = 1; std::abs(term) > 1e-18 * y; ++k) {
        moments[p] += term / (k + power);
        term *= -y / k;
      }
    } else {
      moments[p] = p == 0 ? 1 - std::exp(-y) : power / y * moments[p - 1] - std::exp(-y);
    }
  }
  return moments;
}

/// Weights of answers known at `nodes` in a step [from, to]: the integrals of
/// (1 + tau^2) e^{(1 + tau^2)(l - to)} times their Lagrange polynomials.
std::vector<double> adams_weights(const std::vector<double>& nodes, double from, double to,
                                  double tau) {
  const double h = to - from;
  std::vector<double> moments = exponential_moments((1 + tau * tau) * h, nodes.size());
  std::vector<std::vector<double>> powers(nodes.size());
  for (size_t p = 0; p < nodes.size(); ++p)
    for (const double node : nodes)
      powers[p].push_back(std::pow((to - node) / h, static_cast<double>(p)));
  return solve(powers, moments);
}

/// One walk over the schedule: sigmas, lambdas and the answers so far.
struct Walk {
  const SamplerContext& context;
  std::vector<float> sigmas;
  std::vector<double> lambdas;
  std::deque<Tensor> answers;  // the newest last

  /// x carried from step `at` to the next by the newest `order` answers, the newest at `newest`.
  Tensor carry(const Tensor& x, size_t at, size_t newest, size_t order, double tau) const {
    const double from = lambdas[at], to = lambdas[at + 1];
    const double alpha = sigmas[at + 1] * std::exp(to);
    std::vector<double> nodes;
    for (size_t k = newest + 1 - order; k <= newest; ++k) nodes.push_back(lambdas[k]);
    const std::vector<double> weights = adams_weights(nodes, from, to, tau);
    const double keep =
        static_cast<double>(sigmas[at + 1]) / sigmas[at] * std::exp(-tau * tau * (to - from));
    std::vector<Term> terms{{keep, x}};
    for (size_t k = 0; k < order; ++k)
      terms.push_back({alpha * weights[k], answers[answers.size() - order + k]});
    return combine(terms);
  }
};

Walk begin_walk(const SamplerContext& context, Sigmas schedule) {
  Walk walk{context, finite_snr(context.model, schedule), {}, {}};
  for (const float sigma : walk.sigmas) walk.lambdas.push_back(context.model.half_log_snr(sigma));
  return walk;
}

enum class Evaluation { once, after_correction_too };

Tensor sa_solver(const SamplerContext& context, const Tensor& start, Sigmas schedule,
                 Evaluation evaluation) {
  Walk walk = begin_walk(context, schedule);
  const std::vector<float>& sigmas = walk.sigmas;
  const double noisy_from = context.model.percent_to_sigma(0.2);
  const double noisy_to = context.model.percent_to_sigma(0.8);
  const bool pece = evaluation == Evaluation::after_correction_too;
  const bool to_zero = sigmas.back() == 0;
  Tensor x = start, predicted = start, noise;
  double tau = 0;
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const double from = sigmas[i], to = sigmas[i + 1];
    Tensor denoised = context.denoise(predicted, from).guided;
    report(context, i, sigmas, predicted, denoised);
    walk.answers.push_back(denoised);
    if (walk.answers.size() > kCorrectorOrder) walk.answers.pop_front();
    size_t predict = std::min(kPredictorOrder, walk.answers.size());
    size_t correct = std::min(kCorrectorOrder, walk.answers.size());
    if (i == 0 || (to == 0 && !pece)) correct = 0;
    if (to_zero) {
      predict = std::min(predict, sigmas.size() - 2 - i);
      correct = std::min(correct, sigmas.size() - 1 - i);
    }
    if (correct == 0) {
      x = predicted;
    } else {
      x = walk.carry(x, i - 1, i, correct, tau);
      if (noise.defined()) x = combine({{1, x}, {1, noise}});
      if (pece) walk.answers.back() = denoised = context.denoise(x, from).guided;
    }
    if (to == 0) {
      predicted = x = denoised;
      continue;
    }
    tau = noisy_from >= to && to >= noisy_to ? 1 : 0;
    predicted = walk.carry(x, i, i, predict, tau);
    noise = Tensor();
    if (tau == 0) continue;
    const double h = walk.lambdas[i + 1] - walk.lambdas[i];
    const double deviation = to * std::sqrt(-std::expm1(-2 * tau * tau * h));
    noise = combine({{deviation, context.noise->next(from, to)}});
    predicted = combine({{1, predicted}, {1, noise}});
  }
  return predicted;
}

}  // namespace

Tensor sample_sa_solver(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return sa_solver(context, x, sigmas, Evaluation::once);
}

Tensor sample_sa_solver_pece(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return sa_solver(context, x, sigmas, Evaluation::after_correction_too);
}

}  // namespace atelier
