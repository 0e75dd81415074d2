// The vector of numbers the kernels in this folder are written in, for the instruction set that the
// translation unit is compiled for: types Vec, Words (the same bits as integers) and Lanes (which
// numbers of a vector count), kLanes, arithmetic, loads and stores in either storage type, products
// of words, a transpose, and functions of numbers.
#pragma once

#if defined(__AVX512F__)
#include "device/cpu/x86/avx512/vector.h"
#else
#include "device/cpu/x86/avx2/vector.h"
#endif

namespace atelier {
namespace {

/// x sigmoid(slope x)
template <Precision precision>
ATELIER_INLINE Vec swish(Vec x, float slope) {
  const Vec e = exp2<precision>(mul(x, splat(-slope * kLog2E)));
  return mul(x, reciprocal<precision>(add(splat(1), e)));
}

/// x (1 + erf(x / sqrt 2)) / 2. For fp32 with erf after Abramowitz and Stegun 7.1.26
/// (error 1.5e-7). For bf16 with a minimax polynomial on [-4, 4] that is exactly 0 and 1 at the
/// ends (error 1.3e-4).
template <Precision precision>
ATELIER_INLINE Vec gelu(Vec x) {
  if constexpr (precision == Precision::bf16) {
    const Vec t = min(max(x, splat(-4)), splat(4));
    const Vec u = mul(t, t);
    Vec p = fma(u, splat(-4.84019195e-10F), splat(5.34623507e-08F));
    p = fma(p, u, splat(-2.38573042e-06F));
    p = fma(p, u, splat(5.84102639e-05F));
    p = fma(p, u, splat(-8.90209693e-04F));
    p = fma(p, u, splat(9.06866938e-03F));
    p = fma(p, u, splat(-0.0651172947F));
    p = fma(p, u, splat(0.39821923F));
    return mul(x, fma(t, p, splat(0.5F)));
  }
  const Vec a = abs(mul(x, splat(0.70710678118654752F)));
  const Vec t = div(splat(1), fma(a, splat(0.3275911F), splat(1)));
  Vec p = fma(t, splat(1.061405429F), splat(-1.453152027F));
  p = fma(t, p, splat(1.421413741F));
  p = fma(t, p, splat(-0.284496736F));
  p = mul(t, fma(t, p, splat(0.254829592F)));
  const Vec e = exp2<precision>(mul(mul(a, a), splat(-kLog2E)));
  const Vec upper = mul(mul(p, e), splat(0.5F));
  return mul(x, where_greater(zero(), x, upper, sub(splat(1), upper)));
}

/// The tanh form: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
template <Precision precision>
ATELIER_INLINE Vec gelu_tanh(Vec x) {
  const Vec inner = fma(mul(mul(x, x), x), splat(0.044715F), x);
  const Vec e = exp2<precision>(mul(inner, splat(-1.5957691216F * kLog2E)));
  return mul(x, reciprocal<precision>(add(splat(1), e)));
}

/// `activation` of x; folds away where it is a constant.
template <Precision precision>
ATELIER_INLINE Vec activated(CpuActivation activation, Vec x) {
  if (activation == CpuActivation::gelu) return gelu<precision>(x);
  if (activation == CpuActivation::gelu_tanh) return gelu_tanh<precision>(x);
  if (activation == CpuActivation::quick_gelu) return swish<precision>(x, 1.702F);
  if (activation == CpuActivation::silu) return swish<precision>(x, 1.F);
  return x;
}

}  // namespace
}  // namespace atelier
