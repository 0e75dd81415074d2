// Regularised incomplete Beta function by continued fraction; its inverse by guarded Newton steps.
#include "sampling/beta_quantile.h"

#include <algorithm>
#include <cmath>

namespace atelier {
namespace {

constexpr double kTiny = 1e-300;
constexpr double kPrecision = 1e-16;

double away_from_zero(double value) { return std::abs(value) < kTiny ? kTiny : value; }

/// DLMF 8.17.22; converges fast for x < (a + 1) / (a + b + 2).
double continued_fraction(double x, double a, double b) {
  double c = 1, d = 1 / away_from_zero(1 - (a + b) * x / (a + 1));
  double value = d;
  for (int m = 1; m <= 500; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double change = 1;
    for (const double term : {even, odd}) {
      d = 1 / away_from_zero(1 + term * d);
      c = away_from_zero(1 + term / c);
      change = c * d;
      value *= change;
    }
    if (std::abs(change - 1) < kPrecision) break;
  }
  return value;
}

double log_density(double x, double a, double b) {
  return std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + (a - 1) * std::log(x) +
         (b - 1) * std::log1p(-x);
}

}  // namespace

double beta_cumulative(double x, double a, double b) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const double front = std::exp(log_density(x, a, b)) * x * (1 - x);
  if (x < (a + 1) / (a + b + 2)) return front * continued_fraction(x, a, b) / a;
  return 1 - front * continued_fraction(1 - x, b, a) / b;
}

double beta_quantile(double p, double a, double b) {
  if (p <= 0) return 0;
  if (p >= 1) return 1;
  double low = 0, high = 1, x = a / (a + b);
  for (int step = 0; step < 200 && high - low > kPrecision * x; ++step) {
    const double error = beta_cumulative(x, a, b) - p;
    (error > 0 ? high : low) = x;
    const double newton = x - error / std::exp(log_density(x, a, b));
    const bool inside = newton > low && newton < high;
    const double next = inside ? newton : 0.5 * (low + high);
    if (std::abs(next - x) <= kPrecision * x) return next;
    x = next;
  }
  return x;
}

}  // namespace atelier
