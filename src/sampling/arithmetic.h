// The few operations samplers are made of: weighted sums of latents, and small exact arithmetic.
// Latents are float32 on the CPU; weights are computed in double and rounded to float once.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <span>
#include <vector>

namespace atelier {

using at::Tensor;

/// One summand of `combine`.
struct Term {
  double weight;
  const Tensor& x;
};

/// The sum of weight * x, in order, in one pass; a new float32 tensor of the common shape.
/// The result does not depend on the number of threads.
Tensor combine(std::initializer_list<Term> terms);
Tensor combine(std::span<const Term> terms);

/// `out` becomes weight * out + other * x, in place. `out` must be contiguous float32.
void accumulate(Tensor& out, double weight, const Tensor& x, double other);

/// (a - b) * scale: the derivative of x by sigma is `difference(x, denoised, 1 / sigma)`.
Tensor difference(const Tensor& a, const Tensor& b, double scale);

/// a + (b - a) * weight, as guidance needs it: exact in the difference for large weights.
Tensor extrapolate(const Tensor& a, const Tensor& b, double weight);

/// a where `mask` is 0, b where it is 1 (both exactly), linear in between.
Tensor blend(const Tensor& a, const Tensor& b, const Tensor& mask);

/// The solution of `matrix` y = `right`, matrix row by row, by elimination with pivots.
/// For the systems of order <= 8 that multistep methods set up; singular ones give infinities.
std::vector<double> solve(std::vector<std::vector<double>> matrix, std::vector<double> right);

/// The value at `t` of the polynomial that is 1 at `nodes[which]` and 0 at the other nodes.
double lagrange_basis(std::span<const double> nodes, size_t which, double t);

}  // namespace atelier
