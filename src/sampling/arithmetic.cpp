// Weighted sums of latents in one pass over memory, and the small linear algebra beside them.
#include "sampling/arithmetic.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"

namespace atelier {
namespace {

constexpr int64_t kBlock = 1024;  // stays in the first cache, and lets the compiler vectorise
constexpr size_t kMaxTerms = 16;

/// The operand's numbers in order; `keep` owns them if they had to be copied.
const float* values(const Tensor& x, int64_t count, Tensor& keep) {
  ATELIER_CHECK(x.defined() && x.numel() == count && x.scalar_type() == at::kFloat &&
                x.device().is_cpu());
  keep = x.contiguous();
  return keep.const_data_ptr<float>();
}

/// Calls f(begin, count) for blocks of kBlock, then once for the rest.
template <typename F>
void for_blocks(int64_t count, F&& f) {
  int64_t begin = 0;
  for (; begin + kBlock <= count; begin += kBlock)
    f(begin, std::integral_constant<int64_t, kBlock>());
  if (begin < count) f(begin, count - begin);
}

template <typename Count>
void scale_block(float* __restrict out, const float* __restrict x, float w, Count n) {
  for (int64_t j = 0; j < n; ++j) out[j] = w * x[j];
}

template <typename Count>
void add_block(float* __restrict out, const float* __restrict x, float w, Count n) {
  for (int64_t j = 0; j < n; ++j) out[j] += w * x[j];
}

/// f(a, b) element by element, in order.
template <typename F>
Tensor zip(const Tensor& a, const Tensor& b, F f) {
  Tensor keep_a, keep_b;
  const float* pa = values(a, a.numel(), keep_a);
  const float* pb = values(b, a.numel(), keep_b);
  Tensor result = at::empty(a.sizes(), at::kFloat);
  float* out = result.mutable_data_ptr<float>();
  for_blocks(a.numel(), [&](int64_t at, auto n) {
    float* __restrict o = out + at;
    const float* __restrict x = pa + at;
    const float* __restrict y = pb + at;
    for (int64_t j = 0; j < n; ++j) o[j] = f(x[j], y[j]);
  });
  return result;
}

}  // namespace

Tensor combine(std::initializer_list<Term> terms) {
  return combine(std::span<const Term>(terms.begin(), terms.size()));
}

Tensor combine(std::span<const Term> terms) {
  ATELIER_CHECK(!terms.empty() && terms.size() <= kMaxTerms);
  const Tensor& first = terms[0].x;
  const int64_t count = first.numel();
  std::array<Tensor, kMaxTerms> keep;
  std::array<const float*, kMaxTerms> from;
  for (size_t k = 0; k < terms.size(); ++k) from[k] = values(terms[k].x, count, keep[k]);
  Tensor result = at::empty(first.sizes(), at::kFloat);
  float* out = result.mutable_data_ptr<float>();
  for_blocks(count, [&](int64_t at, auto n) {
    scale_block(out + at, from[0] + at, static_cast<float>(terms[0].weight), n);
    for (size_t k = 1; k < terms.size(); ++k)
      add_block(out + at, from[k] + at, static_cast<float>(terms[k].weight), n);
  });
  return result;
}

void accumulate(Tensor& out, double weight, const Tensor& x, double other) {
  ATELIER_CHECK(out.is_contiguous() && out.scalar_type() == at::kFloat);
  Tensor keep;
  const float* from = values(x, out.numel(), keep);
  float* to = out.mutable_data_ptr<float>();
  const auto w = static_cast<float>(weight), v = static_cast<float>(other);
  for_blocks(out.numel(), [&](int64_t at, auto n) {
    float* __restrict o = to + at;
    const float* __restrict y = from + at;
    for (int64_t j = 0; j < n; ++j) o[j] = w * o[j] + v * y[j];
  });
}

Tensor difference(const Tensor& a, const Tensor& b, double scale) {
  const auto w = static_cast<float>(scale);
  return zip(a, b, [w](float x, float y) { return (x - y) * w; });
}

Tensor extrapolate(const Tensor& a, const Tensor& b, double weight) {
  const auto w = static_cast<float>(weight);
  return zip(a, b, [w](float x, float y) { return x + (y - x) * w; });
}

Tensor blend(const Tensor& a, const Tensor& b, const Tensor& mask) {
  Tensor keep;
  const float* m = values(mask, a.numel(), keep);
  return zip(a, b, [m](float x, float y) mutable {
    const float w = *m++;
    return w < 0.5f ? x + w * (y - x) : y - (1 - w) * (y - x);
  });
}

std::vector<double> solve(std::vector<std::vector<double>> matrix, std::vector<double> right) {
  const size_t n = right.size();
  for (size_t k = 0; k < n; ++k) {
    size_t pivot = k;
    for (size_t row = k + 1; row < n; ++row)
      if (std::abs(matrix[row][k]) > std::abs(matrix[pivot][k])) pivot = row;
    std::swap(matrix[k], matrix[pivot]);
    std::swap(right[k], right[pivot]);
    for (size_t row = k + 1; row < n; ++row) {
      const double factor = matrix[row][k] / matrix[k][k];
      for (size_t column = k; column < n; ++column)
        matrix[row][column] -= factor * matrix[k][column];
      right[row] -= factor * right[k];
    }
  }
  for (size_t k = n; k-- > 0;) {
    for (size_t column = k + 1; column < n; ++column) right[k] -= matrix[k][column] * right[column];
    right[k] /= matrix[k][k];
  }
  return right;
}

double lagrange_basis(std::span<const double> nodes, size_t which, double t) {
  double product = 1;
  for (size_t k = 0; k < nodes.size(); ++k)
    if (k != which) product *= (t - nodes[k]) / (nodes[which] - nodes[k]);
  return product;
}

}  // namespace atelier
