// The sigma tables and preconditionings, one row each.
#include "sampling/model_sampling.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

#include "base/error.h"
#include "sampling/arithmetic.h"

namespace atelier {
namespace {

constexpr double kBeforeAll = 999999999.9;
constexpr size_t kDiscreteSteps = 1000;
using Params = ModelSamplingParams;

double shifted(const Params& p, double u) {
  return p.shift == 1 ? u : p.shift * u / (1 + (p.shift - 1) * u);
}

double flux_shifted(const Params& p, double u) {
  return std::exp(p.shift) / (std::exp(p.shift) + (1 / u - 1));
}

/// Cumulative products of 1 - beta for betas = linspace(sqrt(0.00085), sqrt(0.012))^2.
std::vector<double> scaled_linear_alphas() {
  const double first = std::sqrt(0.00085), last = std::sqrt(0.012);
  std::vector<double> alphas(kDiscreteSteps);
  double product = 1;
  for (size_t i = 0; i < kDiscreteSteps; ++i) {
    const double root =
        first + (last - first) * static_cast<double>(i) / static_cast<double>(kDiscreteSteps - 1);
    product *= 1 - root * root;
    alphas[i] = product;
  }
  return alphas;
}

std::vector<double> sigmas_of_alphas(const std::vector<double>& alphas) {
  std::vector<double> sigmas(alphas.size());
  std::transform(alphas.begin(), alphas.end(), sigmas.begin(),
                 [](double a) { return std::sqrt((1 - a) / a); });
  return sigmas;
}

std::vector<double> discrete_table(const Params&) {
  return sigmas_of_alphas(scaled_linear_alphas());
}

/// Lin et al. 2023, algorithm 1; the last alpha is a hair above 0 to keep sigma finite.
std::vector<double> zero_terminal_table(const Params&) {
  std::vector<double> alphas = scaled_linear_alphas();
  const double first = std::sqrt(alphas.front()), last = std::sqrt(alphas.back());
  for (double& alpha : alphas) {
    const double root = (std::sqrt(alpha) - last) * first / (first - last);
    alpha = root * root;
  }
  alphas.back() = 4.8973451890853435e-08;
  return sigmas_of_alphas(alphas);
}

std::vector<double> edm_table(const Params& p) {
  std::vector<double> sigmas(kDiscreteSteps);
  const double first = std::log(p.sigma_min), last = std::log(p.sigma_max);
  for (size_t i = 0; i < kDiscreteSteps; ++i)
    sigmas[i] = std::exp(first + (last - first) * static_cast<double>(i) /
                                     static_cast<double>(kDiscreteSteps - 1));
  return sigmas;
}

template <double (*shift)(const Params&, double), size_t kSteps>
std::vector<double> shifted_table(const Params& p) {
  std::vector<double> sigmas(kSteps);
  for (size_t i = 0; i < kSteps; ++i)
    sigmas[i] = shift(p, static_cast<double>(i + 1) / static_cast<double>(kSteps));
  return sigmas;
}

/// exp of the logarithm interpolated between the two nearest entries.
double interpolated(const Params&, const std::vector<float>& logs, double timestep) {
  const float t =
      std::clamp(static_cast<float>(timestep), 0.0f, static_cast<float>(logs.size() - 1));
  const auto low = static_cast<size_t>(std::floor(t)), high = static_cast<size_t>(std::ceil(t));
  const float w = t - std::floor(t);
  return std::exp(static_cast<double>((1 - w) * logs[low] + w * logs[high]));
}

double nearest_index(const Params&, const std::vector<float>& logs, double sigma) {
  const double log_sigma = std::log(sigma);
  const auto above = std::lower_bound(logs.begin(), logs.end(), log_sigma);
  if (above == logs.begin()) return 0;
  if (above == logs.end()) return static_cast<double>(logs.size() - 1);
  const bool below_is_nearer = log_sigma - *(above - 1) <= *above - log_sigma;
  return static_cast<double>(above - logs.begin() - (below_is_nearer ? 1 : 0));
}

double discrete_percent(const Params& p, const std::vector<float>& logs, double percent) {
  return interpolated(p, logs, static_cast<double>(logs.size() - 1) * (1 - percent));
}

double edm_percent(const Params& p, const std::vector<float>&, double percent) {
  const double first = std::log(p.sigma_min), last = std::log(p.sigma_max);
  return std::exp(first + (last - first) * (1 - percent));
}

/// What differs between the tables. Functions take the logarithms of the table.
struct TableRow {
  std::vector<double> (*table)(const Params&);
  double (*sigma)(const Params&, const std::vector<float>&, double timestep);
  double (*timestep)(const Params&, const std::vector<float>&, double sigma);
  double (*percent)(const Params&, const std::vector<float>&, double percent);
  bool rounds_percent;  // percent_to_sigma passes through the float32 sigma()
  double all_noise;  // percent_to_sigma(0)
};

using Logs = const std::vector<float>&;
constexpr std::array<TableRow, 5> kTables{{
    {discrete_table, interpolated, nearest_index, discrete_percent, true, kBeforeAll},
    {zero_terminal_table, interpolated, nearest_index, discrete_percent, true, kBeforeAll},
    {edm_table, [](const Params&, Logs, double t) { return std::exp(4 * t); },
     [](const Params&, Logs, double s) { return 0.25 * std::log(s); }, edm_percent, false,
     kBeforeAll},
    {shifted_table<shifted, 1000>,
     [](const Params& p, Logs, double t) { return shifted(p, t / p.multiplier); },
     [](const Params& p, Logs, double s) { return s * p.multiplier; },
     [](const Params& p, Logs, double percent) { return shifted(p, 1 - percent); }, false, 1.0},
    {shifted_table<flux_shifted, 10000>,
     [](const Params& p, Logs, double t) { return flux_shifted(p, t); },
     [](const Params&, Logs, double s) { return s; },
     [](const Params& p, Logs, double percent) { return flux_shifted(p, 1 - percent); }, false,
     1.0},
}};

const TableRow& row(const Params& p) { return kTables[static_cast<size_t>(p.table)]; }

constexpr std::array<Preconditioning (*)(double s, double d), 4> kPreconditionings{
    +[](double s, double d) { return Preconditioning{1 / std::hypot(s, d), 1, -s}; },
    +[](double s, double d) {
      const double sum = s * s + d * d;
      return Preconditioning{1 / std::sqrt(sum), d * d / sum, -s * d / std::sqrt(sum)};
    },
    +[](double s, double d) {
      const double sum = s * s + d * d;
      return Preconditioning{1 / std::sqrt(sum), d * d / sum, s * d / std::sqrt(sum)};
    },
    +[](double s, double) { return Preconditioning{1, 1, -s}; },
};

void check_positive(double value, const char* name) {
  if (!(value > 0 && std::isfinite(value)))
    throw Error(ErrorCode::invalid_argument, {name, "a number above 0", std::to_string(value)});
}

}  // namespace

double shift_by_size(double base, double max, double tokens) {
  constexpr double kBaseTokens = 256, kMaxTokens = 4096;
  return base + (max - base) / (kMaxTokens - kBaseTokens) * (tokens - kBaseTokens);
}

ModelSampling::ModelSampling(const ModelSamplingParams& params) : params_(params) {
  check_positive(params.shift, "shift");
  check_positive(params.multiplier, "multiplier");
  check_positive(params.sigma_data, "sigma_data");
  check_positive(params.sigma_min, "sigma_min");
  check_positive(params.sigma_max - params.sigma_min, "sigma_max - sigma_min");
  const std::vector<double> table = row(params_).table(params_);
  sigmas_.assign(table.begin(), table.end());
  for (const double sigma : table) log_sigmas_.push_back(static_cast<float>(std::log(sigma)));
}

double ModelSampling::sigma(double timestep) const {
  return static_cast<float>(row(params_).sigma(params_, log_sigmas_, timestep));
}

double ModelSampling::timestep(double sigma) const {
  return row(params_).timestep(params_, log_sigmas_, sigma);
}

double ModelSampling::percent_to_sigma(double percent) const {
  if (percent <= 0) return row(params_).all_noise;
  if (percent >= 1) return 0;
  const double sigma = row(params_).percent(params_, log_sigmas_, percent);
  return row(params_).rounds_percent ? static_cast<float>(sigma) : sigma;
}

Preconditioning ModelSampling::preconditioning(double sigma) const {
  return kPreconditionings[static_cast<size_t>(params_.prediction)](sigma, params_.sigma_data);
}

double ModelSampling::half_log_snr(double sigma) const {
  return is_flow() ? std::log1p(-sigma) - std::log(sigma) : -std::log(sigma);
}

double ModelSampling::sigma_of_half_log_snr(double half_log_snr) const {
  return is_flow() ? 1 / (1 + std::exp(half_log_snr)) : std::exp(-half_log_snr);
}

Tensor ModelSampling::add_noise(double sigma, const Tensor& noise, const Tensor& latent) const {
  return combine({{sigma, noise}, {is_flow() ? 1 - sigma : 1, latent}});
}

Tensor ModelSampling::start(double sigma, const Tensor& noise, const Tensor& latent) const {
  const double largest = sigma_max();
  const bool is_largest =
      sigma > largest || std::abs(sigma - largest) <= 1e-5 * std::max(sigma, largest);
  if (is_flow() || !is_largest) return add_noise(sigma, noise, latent);
  return combine({{std::sqrt(1 + sigma * sigma), noise}, {1, latent}});
}

Tensor ModelSampling::finish(double last_sigma, const Tensor& x) const {
  return is_flow() && last_sigma != 0 ? combine({{1 / (1 - last_sigma), x}}) : x;
}

}  // namespace atelier
