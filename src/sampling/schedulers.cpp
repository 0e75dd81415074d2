// The nine schedulers and their table.
// Arithmetic is float32 where the reference's is, so that sigmas agree to the last bit or two.
#include "sampling/schedulers.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/error.h"
#include "sampling/beta_quantile.h"
#include "sampling/lookup.h"
#include "sampling/names.h"

namespace atelier {
namespace {

using Sigmas = std::vector<float>;
constexpr int kMaxSteps = 10000;
constexpr double kMaxScheduleSteps = 1e6;
constexpr double kNearZero = 1e-5;

/// `count` float32 values from `first` to `last`, counted from the nearer end.
Sigmas linspace(double first, double last, int count) {
  const auto a = static_cast<float>(first), b = static_cast<float>(last);
  Sigmas values(static_cast<size_t>(count), a);
  if (count < 2) return values;
  const float step = (b - a) / static_cast<float>(count - 1);
  for (int i = 0; i < count; ++i)
    values[static_cast<size_t>(i)] = i < count / 2 ? a + step * static_cast<float>(i)
                                                   : b - step * static_cast<float>(count - 1 - i);
  return values;
}

float power(float x, double exponent) {
  return static_cast<float>(std::pow(static_cast<double>(x), exponent));
}

Sigmas simple(const ModelSampling& model, int steps) {
  const Sigmas& table = model.sigmas();
  const double stride = static_cast<double>(table.size()) / steps;
  Sigmas sigmas;
  for (int i = 0; i < steps; ++i)
    sigmas.push_back(table[table.size() - 1 - static_cast<size_t>(i * stride)]);
  sigmas.push_back(0);
  return sigmas;
}

Sigmas at_timesteps(const ModelSampling& model, const Sigmas& timesteps, bool append_zero) {
  Sigmas sigmas;
  for (const float t : timesteps) sigmas.push_back(static_cast<float>(model.sigma(t)));
  if (append_zero) sigmas.push_back(0);
  return sigmas;
}

Sigmas normal(const ModelSampling& model, int steps) {
  const double first = model.timestep(model.sigma_max()), last = model.timestep(model.sigma_min());
  const bool ends_at_zero = std::abs(model.sigma(last)) <= kNearZero;
  return at_timesteps(model, linspace(first, last, steps + (ends_at_zero ? 1 : 0)), !ends_at_zero);
}

Sigmas sgm_uniform(const ModelSampling& model, int steps) {
  Sigmas timesteps =
      linspace(model.timestep(model.sigma_max()), model.timestep(model.sigma_min()), steps + 1);
  timesteps.pop_back();
  return at_timesteps(model, timesteps, true);
}

/// Karras et al. 2022, equation 5, with rho = 7.
Sigmas karras(const ModelSampling& model, int steps) {
  constexpr double kRho = 7;
  const double first = std::pow(model.sigma_max(), 1 / kRho);
  const auto range = static_cast<float>(std::pow(model.sigma_min(), 1 / kRho) - first);
  Sigmas sigmas = linspace(0, 1, steps);
  for (float& s : sigmas) {
    const float moved = s * range;
    s = power(static_cast<float>(first) + moved, kRho);
  }
  sigmas.push_back(0);
  return sigmas;
}

Sigmas exponential(const ModelSampling& model, int steps) {
  Sigmas sigmas = linspace(std::log(model.sigma_max()), std::log(model.sigma_min()), steps);
  for (float& s : sigmas) s = static_cast<float>(std::exp(static_cast<double>(s)));
  sigmas.push_back(0);
  return sigmas;
}

Sigmas ddim_uniform(const ModelSampling& model, int steps) {
  const Sigmas& table = model.sigmas();
  const bool starts_at_zero = std::abs(table[1]) <= kNearZero;
  const size_t stride =
      std::max<size_t>(table.size() / static_cast<size_t>(steps + (starts_at_zero ? 1 : 0)), 1);
  Sigmas sigmas;
  if (!starts_at_zero) sigmas.push_back(0);
  for (size_t i = 1; i < table.size(); i += stride) sigmas.push_back(table[i]);
  std::reverse(sigmas.begin(), sigmas.end());
  return sigmas;
}

/// Lee et al. 2024, "Beta sampling is all you need": quantiles of Beta(0.6, 0.6).
Sigmas beta(const ModelSampling& model, int steps) {
  const Sigmas& table = model.sigmas();
  const double last_index = static_cast<double>(table.size() - 1);
  Sigmas sigmas;
  double previous = -1;
  for (int i = 0; i < steps; ++i) {
    const double share = 1 - static_cast<double>(i) / steps;
    const double index = std::nearbyint(beta_quantile(share, 0.6, 0.6) * last_index);
    if (index != previous) sigmas.push_back(table[static_cast<size_t>(index)]);
    previous = index;
  }
  sigmas.push_back(0);
  return sigmas;
}

/// A linear first half down to 1 - 0.025, then a quadratic that meets it with equal slope.
Sigmas linear_quadratic(const ModelSampling& model, int steps) {
  const auto largest = static_cast<float>(model.sigma_max());
  if (steps == 1) return {largest, 0};
  constexpr double kThreshold = 0.025;
  const int linear = steps / 2;
  const double rest = steps - linear;
  const double excess = linear - kThreshold * steps;
  const double square = excess / (linear * rest * rest);
  const double slope = kThreshold / linear - 2 * excess / (rest * rest);
  const double constant = square * linear * linear;
  Sigmas sigmas;
  for (int i = 0; i < steps; ++i) {
    const double done =
        i < linear ? i * kThreshold / linear : square * i * i + slope * i + constant;
    sigmas.push_back(static_cast<float>(1 - done) * largest);
  }
  sigmas.push_back(0);
  return sigmas;
}

/// Sabour et al. 2024, "Align Your Steps", equation for the KL-optimal schedule of a Gaussian.
Sigmas kl_optimal(const ModelSampling& model, int steps) {
  const float low = std::atan(static_cast<float>(model.sigma_min()));
  const float high = std::atan(static_cast<float>(model.sigma_max()));
  Sigmas sigmas;
  for (int i = 0; i < steps; ++i) {
    const float share = steps == 1 ? 0 : static_cast<float>(i) / static_cast<float>(steps - 1);
    sigmas.push_back(std::tan(share * low + (1 - share) * high));
  }
  sigmas.push_back(0);
  return sigmas;
}

constexpr std::array<Scheduler, 9> kSchedulers{{
    {"simple", simple},
    {"sgm_uniform", sgm_uniform},
    {"karras", karras},
    {"exponential", exponential},
    {"ddim_uniform", ddim_uniform},
    {"beta", beta},
    {"normal", normal},
    {"linear_quadratic", linear_quadratic},
    {"kl_optimal", kl_optimal},
}};

static_assert(same_names(kSchedulers, kSchedulerNames),
              "names.h lists the schedulers in this order");

int schedule_steps(int steps, double denoise) {
  if (steps < 1 || steps > kMaxSteps)
    throw Error(ErrorCode::invalid_argument,
                {"steps", "1 to " + std::to_string(kMaxSteps), std::to_string(steps)});
  if (!(denoise >= 0 && denoise <= 1))
    throw Error(ErrorCode::invalid_argument, {"denoise", "0 to 1", std::to_string(denoise)});
  if (denoise > 0.9999 || denoise == 0) return steps;
  const double whole = steps / denoise;
  if (whole > kMaxScheduleSteps)
    throw Error(ErrorCode::invalid_argument,
                {"denoise", "steps / denoise up to 1000000", std::to_string(denoise),
                 "Use fewer steps, or more denoise"});
  return static_cast<int>(whole);
}

}  // namespace

std::span<const Scheduler> schedulers() { return kSchedulers; }

const Scheduler& find_scheduler(std::string_view name) {
  return find_row(schedulers(), "scheduler", name);
}

std::vector<float> job_sigmas(const ModelSampling& model, const Scheduler& scheduler, int steps,
                              double denoise, bool drop_penultimate) {
  const int whole = schedule_steps(steps, denoise);
  if (denoise == 0) return {};
  Sigmas sigmas = scheduler.sigmas(model, whole + (drop_penultimate ? 1 : 0));
  if (drop_penultimate && sigmas.size() > 2) sigmas.erase(sigmas.end() - 2);
  const bool partial = denoise <= 0.9999;
  const auto kept = static_cast<size_t>(steps) + 1;
  if (partial && sigmas.size() > kept)
    sigmas.erase(sigmas.begin(), sigmas.end() - static_cast<std::ptrdiff_t>(kept));
  return sigmas;
}

}  // namespace atelier
