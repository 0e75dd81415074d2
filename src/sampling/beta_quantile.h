// The inverse of the Beta distribution's cumulative function.
#pragma once

namespace atelier {

/// x in [0, 1] with I_x(a, b) = p: the p-quantile of Beta(a, b), to about 1e-14.
/// a, b > 0; p is clamped to [0, 1].
double beta_quantile(double p, double a, double b);

/// The regularised incomplete Beta function I_x(a, b), x in [0, 1], to about 1e-15.
/// Source: Lentz's evaluation of the continued fraction, DLMF 8.17.22.
double beta_cumulative(double x, double a, double b);

}  // namespace atelier
