// Linear multistep samplers: one evaluation a step, slopes of the steps before reused.
// Sources: k-diffusion's lms (Lagrange integrals over sigma); Liu et al. 2022 (iPNDM);
// Zhang & Chen 2022 (DEIS, tAB), the last two with the conventions of the diff-sampler repository.
#include <algorithm>
#include <array>
#include <cmath>

#include "sampling/integrators.h"

namespace atelier {
namespace {

using Weights = std::vector<double>;

/// What a method does in step `i`: weights of this step's slope, the one before, and so on.
using StepWeights = Weights (*)(Sigmas sigmas, size_t i);

/// x + sum of weight * slope; a last sigma of 0 is reached by going to the picture.
Tensor multistep(const SamplerContext& context, Tensor x, Sigmas sigmas, StepWeights weights_of) {
  std::vector<Tensor> slopes;  // newest first
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    const Tensor denoised = context.denoise(x, sigmas[i]).guided;
    report(context, i, sigmas, x, denoised);
    if (sigmas[i + 1] == 0) {
      x = denoised;
      continue;
    }
    slopes.insert(slopes.begin(), slope(x, denoised, sigmas[i]));
    const Weights weights = weights_of(sigmas, i);
    std::vector<Term> terms{{1, x}};
    for (size_t k = 0; k < weights.size(); ++k) terms.push_back({weights[k], slopes[k]});
    x = combine(terms);
    if (slopes.size() > 3) slopes.pop_back();
  }
  return x;
}

/// The last `order` sigmas up to step i, newest first.
std::vector<double> newest(Sigmas sigmas, size_t i, size_t order) {
  std::vector<double> nodes;
  for (size_t k = 0; k < std::min(order, i + 1); ++k) nodes.push_back(sigmas[i - k]);
  return nodes;
}

/// Integrals of the Lagrange polynomials; two Gauss points are exact up to order 4.
Weights lms_weights(Sigmas sigmas, size_t i) {
  const std::vector<double> nodes = newest(sigmas, i, 4);
  const double from = sigmas[i], to = sigmas[i + 1];
  const double middle = (from + to) / 2, offset = (to - from) / 2 / std::sqrt(3.0);
  Weights weights;
  for (size_t k = 0; k < nodes.size(); ++k)
    weights.push_back(
        (to - from) / 2 *
        (lagrange_basis(nodes, k, middle - offset) + lagrange_basis(nodes, k, middle + offset)));
  return weights;
}

/// Adams-Bashforth as if all steps were equal.
Weights ipndm_weights(Sigmas sigmas, size_t i) {
  static constexpr std::array<std::array<double, 4>, 4> kAdamsBashforth{{
      {1, 0, 0, 0},
      {3.0 / 2, -1.0 / 2, 0, 0},
      {23.0 / 12, -16.0 / 12, 5.0 / 12, 0},
      {55.0 / 24, -59.0 / 24, 37.0 / 24, -9.0 / 24},
  }};
  const size_t order = std::min<size_t>(i + 1, 4);
  const double step = static_cast<double>(sigmas[i + 1]) - sigmas[i];
  Weights weights;
  for (size_t k = 0; k < order; ++k) weights.push_back(step * kAdamsBashforth[order - 1][k]);
  return weights;
}

/// Adams-Bashforth for unequal steps; orders 3 and 4 in the approximation that the reference uses.
Weights ipndm_v_weights(Sigmas sigmas, size_t i) {
  const auto step = [&](size_t k) { return static_cast<double>(sigmas[k + 1]) - sigmas[k]; };
  const double h = step(i);
  if (i == 0) return {h};
  const double h1 = step(i - 1), q = h / h1;
  if (i == 1) return {h * (2 + q) / 2, -h * q / 2};
  const double h2 = step(i - 2), r = h1 / h2;
  const double third = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2;
  if (i == 2) return {h * ((2 + q) / 2 + third), h * (-q / 2 - (1 + r) * third), h * third * r};
  const double h3 = step(i - 3);
  const double s = h1 * (h1 + h2) / (h2 * (h2 + h3));
  const double fourth =
      ((1 - h / (3 * (h + h1))) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))) *
      (h * (h + h1) * (h + h1 + h2)) / (h1 * (h1 + h2) * (h1 + h2 + h3));
  return {h * ((2 + q) / 2 + third + fourth), h * (-q / 2 - (1 + r) * third - (1 + r + s) * fourth),
          h * (third * r + (r + s * (1 + h2 / h3)) * fourth), -h * fourth * s * h1 / h2};
}

/// The variance preserving time of a sigma, for betas that lead from 0.002 at 1e-3 to 80 at 1.
struct VpTime {
  static constexpr double kFirst = 1e-3;
  double low = std::log1p(0.002 * 0.002), high = std::log1p(80.0 * 80.0);
  double slope = 2 * (low / kFirst - high) / (kFirst - 1);
  double start = high - slope / 2;

  double operator()(double sigma) const {
    return (std::sqrt(start * start + 2 * slope * std::log1p(sigma * sigma)) - start) / slope;
  }
  /// d sigma / d time.
  double derivative(double time) const {
    const double exponent = slope / 2 * time * time + start * time;
    return (slope * time + start) / 2 * std::exp(exponent) / std::sqrt(std::expm1(exponent));
  }
};

/// Integrals over sigma of polynomials in VP time through up to three slopes. The reference sums
/// 10000 points that include both ends; its small excess is part of the method's results.
Weights deis_weights(Sigmas sigmas, size_t i) {
  constexpr int kPoints = 10000;
  const VpTime time;
  std::vector<double> nodes = newest(sigmas, i, 3);
  if (nodes.size() == 1) return {static_cast<double>(sigmas[1]) - sigmas[0]};
  for (double& node : nodes) node = time(node);
  const double from = nodes.front(), to = time(sigmas[i + 1]);
  Weights weights(nodes.size());
  for (int point = 0; point < kPoints; ++point) {
    const double t = from + (to - from) * point / (kPoints - 1);
    const double weight = time.derivative(t) * (to - from) / kPoints;
    for (size_t k = 0; k < nodes.size(); ++k) weights[k] += weight * lagrange_basis(nodes, k, t);
  }
  return weights;
}

}  // namespace

Tensor sample_lms(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return multistep(context, x, sigmas, lms_weights);
}

Tensor sample_ipndm(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return multistep(context, x, sigmas, ipndm_weights);
}

Tensor sample_ipndm_v(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return multistep(context, x, sigmas, ipndm_v_weights);
}

Tensor sample_deis(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return multistep(context, x, sigmas, deis_weights);
}

}  // namespace atelier
