// A vector of 16 numbers for the kernels in x86/simd: AVX-512. See x86/simd/vector.h.
#pragma once

#include "device/cpu/x86/simd/common.h"

namespace atelier {
namespace {

using Vec = __m512;
using Words = __m512i;  // 32 bits each
using Lanes = __mmask16;
constexpr int kLanes = 16;

ATELIER_INLINE Vec splat(float value) { return _mm512_set1_ps(value); }
ATELIER_INLINE Vec zero() { return _mm512_setzero_ps(); }
ATELIER_INLINE Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
ATELIER_INLINE Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
ATELIER_INLINE Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
ATELIER_INLINE Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
ATELIER_INLINE Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
ATELIER_INLINE Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
ATELIER_INLINE Vec abs(Vec a) { return _mm512_abs_ps(a); }
/// a b + c
ATELIER_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
ATELIER_INLINE float reduce_add(Vec a) { return _mm512_reduce_add_ps(a); }
ATELIER_INLINE Words to_words(Vec a) { return _mm512_castps_si512(a); }
ATELIER_INLINE Vec from_words(Words a) { return _mm512_castsi512_ps(a); }
/// Whether a > b anywhere; NaN is not.
ATELIER_INLINE bool any_greater(Vec a, Vec b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ) != 0; }
/// x where a > b, else y.
ATELIER_INLINE Vec where_greater(Vec a, Vec b, Vec x, Vec y) {
  return _mm512_mask_mov_ps(y, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), x);
}

/// (a, b) -> (a cos - b sin, a sin + b cos) of neighbours, by angles in the lower half.
ATELIER_INLINE Vec turn_pairs(Vec x, Vec cosines, Vec sines) {
  const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const Vec across = mul(_mm512_permute_ps(x, 0xb1), _mm512_permutexvar_ps(twice, sines));
  return _mm512_fmaddsub_ps(x, _mm512_permutexvar_ps(twice, cosines), across);
}

ATELIER_INLINE Lanes all_lanes() { return 0xffff; }
/// The first `count` lanes, at most all of them.
ATELIER_INLINE Lanes first_lanes(int64_t count) {
  return count >= 16 ? all_lanes() : static_cast<Lanes>((1U << count) - 1);
}
/// x in the given lanes, else 0.
ATELIER_INLINE Vec keep(Lanes lanes, Vec x) { return _mm512_maskz_mov_ps(lanes, x); }

ATELIER_INLINE Vec widen16(__m256i bits) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
/// Sixteen bf16, rounded to nearest even.
ATELIER_INLINE __m256i narrow16(Vec value) {
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
/// The same numbers with bf16's precision.
ATELIER_INLINE Vec rounded_to_bf16(Vec value) { return widen16(narrow16(value)); }

ATELIER_INLINE Vec load(const float* p) { return _mm512_loadu_ps(p); }
ATELIER_INLINE Vec load(const Bf16* p) {
  return widen16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
ATELIER_INLINE Vec load(const float* p, Lanes lanes) { return _mm512_maskz_loadu_ps(lanes, p); }
ATELIER_INLINE Vec load(const Bf16* p, Lanes lanes) {
  return widen16(_mm256_maskz_loadu_epi16(lanes, p));
}
ATELIER_INLINE Vec load(const Fp16* p, Lanes lanes) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
}
ATELIER_INLINE void store(float* p, Vec value) { _mm512_storeu_ps(p, value); }
ATELIER_INLINE void store(float* p, Vec value, Lanes lanes) {
  _mm512_mask_storeu_ps(p, lanes, value);
}
ATELIER_INLINE void store(Bf16* p, Vec value, Lanes lanes) {
  _mm256_mask_storeu_epi16(p, lanes, narrow16(value));
}
/// At an address aligned to the vector.
ATELIER_INLINE Vec load_aligned(const float* p) { return _mm512_load_ps(p); }
ATELIER_INLINE Words load_aligned(const uint32_t* p) { return _mm512_load_si512(p); }
ATELIER_INLINE void store_aligned(float* p, Vec value) { _mm512_store_ps(p, value); }
/// Past the caches, to an address aligned to the vector stored.
ATELIER_INLINE void stream(float* p, Vec value) { _mm512_stream_ps(p, value); }
ATELIER_INLINE void stream(Bf16* p, Vec value) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow16(value));
}

/// 2^x with relative error 7.5e-5 (bf16) or 2e-7 (fp32): 2^floor(x) times a minimax polynomial in
/// x - floor(x). Below about -150 it is 0; infinity for large x.
template <Precision precision>
ATELIER_INLINE Vec exp2(Vec x) {
  constexpr int kFloor = 1;
  const Vec r = _mm512_reduce_ps(x, kFloor);
  Vec p;
  if constexpr (precision == Precision::bf16) {
    p = fma(r, splat(0.0780245168F), splat(0.2260671637F));
    p = fma(r, p, splat(0.6958335376F));
    p = fma(r, p, splat(0.9999252187F));
  } else {
    p = fma(r, splat(0.0002170225485F), splat(0.0012439688F));
    p = fma(r, p, splat(0.009678840977F));
    p = fma(r, p, splat(0.05548334199F));
    p = fma(r, p, splat(0.2402298363F));
    p = fma(r, p, splat(0.6931469838F));
    p = fma(r, p, splat(1.000000002F));
  }
  return _mm512_scalef_ps(p, x);
}

/// 1 / x; about 14 bits for bf16.
template <Precision precision>
ATELIER_INLINE Vec reciprocal(Vec x) {
  if constexpr (precision == Precision::bf16) return _mm512_rcp14_ps(x);
  return _mm512_div_ps(splat(1), x);
}

/// Transposes 16 x 16 words in place.
ATELIER_INLINE void transpose(Words (&r)[kLanes]) {
  Words t[16];
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

#if defined(__AVX512BF16__)
constexpr bool kNativeBf16 = true;
#else
constexpr bool kNativeBf16 = false;
#endif

/// Numbers of T in a word, as products take them: one as fp32 or, with native bf16 products, two.
template <class T>
constexpr int kPerWord = sizeof(T) == 2 && kNativeBf16 ? 2 : 1;

/// acc + a . b where both hold words of T; `a` is one word for all lanes.
template <class T>
ATELIER_INLINE Vec dot(Vec acc, Words b, const uint32_t* a) {
  const Words word = _mm512_set1_epi32(static_cast<int>(*a));
#if defined(__AVX512BF16__)
  if constexpr (kPerWord<T> == 2) return _mm512_dpbf16_ps(acc, (__m512bh)b, (__m512bh)word);
#endif
  return fma(from_words(b), from_words(word), acc);
}

/// The first `count` of 32 numbers of 16 bits.
ATELIER_INLINE __mmask32 first_halves(int64_t count) {
  if (count >= 32) return ~__mmask32{0};
  return count <= 0 ? __mmask32{0} : (1U << count) - 1;
}

/// kLanes words of a row; `count` numbers are read, the rest is zero.
template <class T>
ATELIER_INLINE Words load_words(const T* p, int64_t count) {
  if constexpr (kPerWord<T> == 2) {
    return _mm512_maskz_loadu_epi16(first_halves(count), p);
  } else {
    return to_words(load(p, first_lanes(max64(0, count))));
  }
}
/// The first `count` numbers of words.
template <class T>
ATELIER_INLINE void store_words(T* p, Words words, int64_t count) {
  if constexpr (kPerWord<T> == 2) {
    _mm512_mask_storeu_epi16(p, first_halves(count), words);
  } else {
    store(p, from_words(words), first_lanes(count));
  }
}
/// The first `count` words themselves.
ATELIER_INLINE void store_raw(uint32_t* p, Words words, int64_t count) {
  _mm512_mask_storeu_epi32(p, first_lanes(count), words);
}

/// Words of numbers: `low`, or bf16 of `low` and `high` side by side.
template <class T>
ATELIER_INLINE Words make_words(Vec low, [[maybe_unused]] Vec high) {
#if defined(__AVX512BF16__)
  if constexpr (kPerWord<T> == 2) {
    const Words interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                         21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(interleave, (Words)_mm512_cvtne2ps_pbh(high, low));
  }
#endif
  return to_words(low);
}
/// The upper halves of both, `low` below.
ATELIER_INLINE Words pair_halves(Vec low, Vec high) {
  return _mm512_or_si512(_mm512_srli_epi32(to_words(low), 16), to_words(high));
}
/// kLanes numbers as words side by side.
template <class T>
ATELIER_INLINE void store_numbers(uint32_t* p, Vec value) {
  if constexpr (kPerWord<T> == 2) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow16(value));
  } else {
    _mm512_storeu_si512(p, to_words(value));
  }
}

}  // namespace
}  // namespace atelier
