// AVX-512 building blocks of the kernels: loads and stores in either storage type, 2^x and the
// activations on it, a 16 x 16 transpose. Internal linkage: included by translation units compiled
// for different instruction sets.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "device/cpu/scalar.h"
#include "device/cpu/types.h"

#define ATELIER_UNROLL _Pragma("GCC unroll 16")
#define ATELIER_INLINE __attribute__((always_inline)) static inline
#define ATELIER_INLINE_MEMBER __attribute__((always_inline)) inline

namespace atelier {
namespace {

#if defined(__AVX512BF16__)
constexpr bool kNativeBf16 = true;
#else
constexpr bool kNativeBf16 = false;
#endif

constexpr float kLog2E = 1.44269504088896F;

ATELIER_INLINE int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
ATELIER_INLINE int64_t max64(int64_t a, int64_t b) { return a < b ? b : a; }
ATELIER_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
ATELIER_INLINE int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

ATELIER_INLINE __m512 splat(float value) { return _mm512_set1_ps(value); }

/// The first `count` of 16 lanes; all of them from 16 on.
ATELIER_INLINE __mmask16 first_lanes(int64_t count) {
  return count >= 16 ? __mmask16{0xffff} : static_cast<__mmask16>((1U << count) - 1);
}

ATELIER_INLINE __m512 widen16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
/// Sixteen bf16, rounded to nearest even.
ATELIER_INLINE __m256i narrow16(__m512 value) {
#if defined(__AVX512BF16__)
  return (__m256i)_mm512_cvtneps_pbh(value);
#else
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, nan, quiet), 16));
#endif
}

ATELIER_INLINE __m512 load(const float* p) { return _mm512_loadu_ps(p); }
ATELIER_INLINE __m512 load(const Bf16* p) {
  return widen16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ATELIER_INLINE __m512 load(const Fp16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ATELIER_INLINE __m512 load(const float* p, __mmask16 lanes) {
  return _mm512_maskz_loadu_ps(lanes, p);
}
ATELIER_INLINE __m512 load(const Bf16* p, __mmask16 lanes) {
  return widen16(_mm256_maskz_loadu_epi16(lanes, p));
}
ATELIER_INLINE __m512 load(const Fp16* p, __mmask16 lanes) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
}
ATELIER_INLINE void store(float* p, __m512 value) { _mm512_storeu_ps(p, value); }
ATELIER_INLINE void store(Bf16* p, __m512 value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow16(value));
}
ATELIER_INLINE void store(float* p, __m512 value, __mmask16 lanes) {
  _mm512_mask_storeu_ps(p, lanes, value);
}
ATELIER_INLINE void store(Bf16* p, __m512 value, __mmask16 lanes) {
  _mm256_mask_storeu_epi16(p, lanes, narrow16(value));
}
/// Past the caches; `p` aligned to the vector stored.
ATELIER_INLINE void stream(float* p, __m512 value) { _mm512_stream_ps(p, value); }
ATELIER_INLINE void stream(Bf16* p, __m512 value) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow16(value));
}

/// How exactly functions are evaluated: for results kept as bf16 or as fp32.
enum class Precision { bf16, fp32 };
template <class T>
constexpr Precision kPrecision = sizeof(T) == 2 ? Precision::bf16 : Precision::fp32;

/// 2^x with relative error 7.5e-5 (bf16) or 2e-7 (fp32): 2^floor(x) times a minimax polynomial in
/// x - floor(x). Below about -150 it is 0; infinity for large x.
template <Precision precision>
ATELIER_INLINE __m512 exp2(__m512 x) {
  constexpr int kFloor = 1;
  const __m512 r = _mm512_reduce_ps(x, kFloor);
  __m512 p;
  if constexpr (precision == Precision::bf16) {
    p = _mm512_fmadd_ps(r, splat(0.0780245168F), splat(0.2260671637F));
    p = _mm512_fmadd_ps(r, p, splat(0.6958335376F));
    p = _mm512_fmadd_ps(r, p, splat(0.9999252187F));
  } else {
    p = _mm512_fmadd_ps(r, splat(0.0002170225485F), splat(0.0012439688F));
    p = _mm512_fmadd_ps(r, p, splat(0.009678840977F));
    p = _mm512_fmadd_ps(r, p, splat(0.05548334199F));
    p = _mm512_fmadd_ps(r, p, splat(0.2402298363F));
    p = _mm512_fmadd_ps(r, p, splat(0.6931469838F));
    p = _mm512_fmadd_ps(r, p, splat(1.000000002F));
  }
  return _mm512_scalef_ps(p, x);
}

/// 1 / x; about 14 bits for bf16.
template <Precision precision>
ATELIER_INLINE __m512 reciprocal(__m512 x) {
  if constexpr (precision == Precision::bf16) return _mm512_rcp14_ps(x);
  return _mm512_div_ps(splat(1), x);
}

/// x sigmoid(slope x)
template <Precision precision>
ATELIER_INLINE __m512 swish(__m512 x, float slope) {
  const __m512 e = exp2<precision>(_mm512_mul_ps(x, splat(-slope * kLog2E)));
  return _mm512_mul_ps(x, reciprocal<precision>(_mm512_add_ps(splat(1), e)));
}

/// x (1 + erf(x / sqrt 2)) / 2. For fp32 with erf after Abramowitz and Stegun 7.1.26
/// (error 1.5e-7). For bf16 with a minimax polynomial on [-4, 4] that is exactly 0 and 1 at the
/// ends (error 1.3e-4).
template <Precision precision>
ATELIER_INLINE __m512 gelu(__m512 x) {
  if constexpr (precision == Precision::bf16) {
    const __m512 t = _mm512_min_ps(_mm512_max_ps(x, splat(-4)), splat(4));
    const __m512 u = _mm512_mul_ps(t, t);
    __m512 p = _mm512_fmadd_ps(u, splat(-4.84019195e-10F), splat(5.34623507e-08F));
    p = _mm512_fmadd_ps(p, u, splat(-2.38573042e-06F));
    p = _mm512_fmadd_ps(p, u, splat(5.84102639e-05F));
    p = _mm512_fmadd_ps(p, u, splat(-8.90209693e-04F));
    p = _mm512_fmadd_ps(p, u, splat(9.06866938e-03F));
    p = _mm512_fmadd_ps(p, u, splat(-0.0651172947F));
    p = _mm512_fmadd_ps(p, u, splat(0.39821923F));
    return _mm512_mul_ps(x, _mm512_fmadd_ps(t, p, splat(0.5F)));
  }
  const __m512 a = _mm512_abs_ps(_mm512_mul_ps(x, splat(0.70710678118654752F)));
  const __m512 t = _mm512_div_ps(splat(1), _mm512_fmadd_ps(a, splat(0.3275911F), splat(1)));
  __m512 p = _mm512_fmadd_ps(t, splat(1.061405429F), splat(-1.453152027F));
  p = _mm512_fmadd_ps(t, p, splat(1.421413741F));
  p = _mm512_fmadd_ps(t, p, splat(-0.284496736F));
  p = _mm512_mul_ps(t, _mm512_fmadd_ps(t, p, splat(0.254829592F)));
  const __m512 e = exp2<precision>(_mm512_mul_ps(_mm512_mul_ps(a, a), splat(-kLog2E)));
  const __m512 upper = _mm512_mul_ps(_mm512_mul_ps(p, e), splat(0.5F));
  const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
  return _mm512_mul_ps(x, _mm512_mask_blend_ps(negative, _mm512_sub_ps(splat(1), upper), upper));
}

/// The tanh form: x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
template <Precision precision>
ATELIER_INLINE __m512 gelu_tanh(__m512 x) {
  const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
  const __m512 inner = _mm512_fmadd_ps(cube, splat(0.044715F), x);
  const __m512 e = exp2<precision>(_mm512_mul_ps(inner, splat(-1.5957691216F * kLog2E)));
  return _mm512_mul_ps(x, reciprocal<precision>(_mm512_add_ps(splat(1), e)));
}

/// `activation` of x; folds away where it is a constant.
template <Precision precision>
ATELIER_INLINE __m512 activated(CpuActivation activation, __m512 x) {
  if (activation == CpuActivation::gelu) return gelu<precision>(x);
  if (activation == CpuActivation::gelu_tanh) return gelu_tanh<precision>(x);
  if (activation == CpuActivation::quick_gelu) return swish<precision>(x, 1.702F);
  if (activation == CpuActivation::silu) return swish<precision>(x, 1.F);
  return x;
}

/// Transposes 16 x 16 words of 32 bits in place.
ATELIER_INLINE void transpose16(__m512i (&r)[16]) {
  __m512i t[16];
  ATELIER_UNROLL for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  ATELIER_UNROLL for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  ATELIER_UNROLL for (int half = 0; half < 16; half += 8) {
    ATELIER_UNROLL for (int i = half; i < half + 4; ++i) {
      t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
      t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    }
  }
  ATELIER_UNROLL for (int i = 0; i < 8; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
  }
}

}  // namespace
}  // namespace atelier
