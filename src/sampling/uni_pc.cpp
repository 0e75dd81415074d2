// UniPC (Zhao et al. 2023), multistep of order 3, predicting the picture, in t = -ln sigma.
// In the variables of variance exploding x the paper's alpha drops out of every formula.
#include <algorithm>
#include <cmath>
#include <deque>

#include "sampling/integrators.h"

namespace atelier {
namespace {

/// The paper's B(h): h itself, or e^h - 1.
enum class Variant { bh1, bh2 };

struct Known {
  double sigma;
  Tensor answer;
};

/// The linear system of one step of `order`: weights of the scaled differences of past answers.
struct System {
  double b_of_h;
  std::vector<std::vector<double>> matrix;  // row i: powers i of the relative times
  std::vector<double> right;
};

System system_of(const std::vector<double>& times, double h, Variant variant) {
  const size_t order = times.size();
  System system{variant == Variant::bh1 ? -h : std::expm1(-h), {}, {}};
  double phi = std::expm1(-h) / -h - 1, factorial = 1;
  for (size_t i = 0; i < order; ++i) {
    std::vector<double> powers;
    for (const double time : times) powers.push_back(std::pow(time, static_cast<double>(i)));
    system.matrix.push_back(powers);
    system.right.push_back(phi * factorial / system.b_of_h);
    factorial *= static_cast<double>(i + 2);
    phi = phi / -h - 1 / factorial;
  }
  return system;
}

/// Order 2 of the predictor and order 1 of the corrector are taken as 1/2, as the paper suggests.
std::vector<double> predictor_weights(const System& system) {
  const size_t order = system.right.size();
  if (order == 1) return {};
  if (order == 2) return {0.5};
  std::vector<std::vector<double>> matrix(system.matrix.begin(), system.matrix.end() - 1);
  for (std::vector<double>& row : matrix) row.pop_back();
  return solve(matrix, {system.right.begin(), system.right.end() - 1});
}

std::vector<double> corrector_weights(const System& system) {
  if (system.right.size() == 1) return {0.5};
  return solve(system.matrix, system.right);
}

/// A step from the newest of `known` to `to`: predicted, and corrected by the model's answer there
/// unless it is the last. The answer is appended to `known`.
Tensor step(const SamplerContext& context, const Tensor& x, std::deque<Known>& known, double to,
            size_t order, Variant variant, bool last) {
  const Known now = known.back();
  const double h = std::log(now.sigma / to), ratio = to / now.sigma;
  std::vector<double> times;
  std::vector<Tensor> differences;
  for (size_t k = 1; k < order; ++k) {
    const Known& past = known[known.size() - 1 - k];
    times.push_back(std::log(now.sigma / past.sigma) / h);
    differences.push_back(difference(past.answer, now.answer, 1 / times.back()));
  }
  times.push_back(1);
  const System system = system_of(times, h, variant);
  const auto moved = [&](const std::vector<double>& weights) {
    std::vector<Term> terms{{ratio, x}, {1 - ratio, now.answer}};
    for (size_t k = 0; k < weights.size(); ++k)
      terms.push_back({-system.b_of_h * weights[k], differences[k]});
    return combine(terms);
  };
  Tensor predicted = moved(predictor_weights(system));
  if (last) return predicted;
  const Tensor answer = context.denoise(predicted, to).guided;
  differences.push_back(difference(answer, now.answer, 1));
  known.push_back({to, answer});
  return moved(corrector_weights(system));
}

Tensor uni_pc(const SamplerContext& context, Tensor x, Sigmas sigmas, Variant variant) {
  const size_t steps = sigmas.size() - 1;
  const size_t order = std::clamp<size_t>(steps - 1, 1, 3);
  std::deque<Known> known{{sigmas[0], context.denoise(x, sigmas[0]).guided}};
  for (size_t i = 1; i <= steps; ++i) {
    report(context, i - 1, sigmas, x, known.back().answer);
    const size_t step_order = i < order ? i : std::min(order, steps + 1 - i);
    x = step(context, x, known, sigmas[i], step_order, variant, i == steps);
    if (known.size() > order) known.pop_front();
  }
  return x;
}

}  // namespace

Tensor sample_uni_pc(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return uni_pc(context, x, sigmas, Variant::bh1);
}

Tensor sample_uni_pc_bh2(const SamplerContext& context, Tensor x, Sigmas sigmas) {
  return uni_pc(context, x, sigmas, Variant::bh2);
}

}  // namespace atelier
