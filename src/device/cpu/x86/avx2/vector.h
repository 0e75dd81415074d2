// A vector of 8 numbers for the kernels in x86/simd: AVX2 with FMA and F16C. bf16 is only a storage
// form, so a word is always one fp32 number. See x86/simd/vector.h.
#pragma once

#include "device/cpu/x86/simd/common.h"

namespace atelier {
namespace {

using Vec = __m256;
using Words = __m256i;  // 32 bits each
using Lanes = __m256i;  // all ones where a lane counts
constexpr int kLanes = 8;

ATELIER_INLINE Vec splat(float value) { return _mm256_set1_ps(value); }
ATELIER_INLINE Vec zero() { return _mm256_setzero_ps(); }
ATELIER_INLINE Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
ATELIER_INLINE Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
ATELIER_INLINE Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
ATELIER_INLINE Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
ATELIER_INLINE Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
ATELIER_INLINE Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
ATELIER_INLINE Vec abs(Vec a) { return _mm256_andnot_ps(splat(-0.F), a); }
/// a b + c
ATELIER_INLINE Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
ATELIER_INLINE float reduce_add(Vec a) {
  const __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 quarter = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
ATELIER_INLINE Words to_words(Vec a) { return _mm256_castps_si256(a); }
ATELIER_INLINE Vec from_words(Words a) { return _mm256_castsi256_ps(a); }
/// Whether a > b anywhere; NaN is not.
ATELIER_INLINE bool any_greater(Vec a, Vec b) {
  return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)) != 0;
}
/// x where a > b, else y.
ATELIER_INLINE Vec where_greater(Vec a, Vec b, Vec x, Vec y) {
  return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}

/// (a, b) -> (a cos - b sin, a sin + b cos) of neighbours, by angles in the lower half.
ATELIER_INLINE Vec turn_pairs(Vec x, Vec cosines, Vec sines) {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  const Vec across = mul(_mm256_permute_ps(x, 0xb1), _mm256_permutevar8x32_ps(sines, twice));
  return _mm256_fmaddsub_ps(x, _mm256_permutevar8x32_ps(cosines, twice), across);
}

ATELIER_INLINE Lanes all_lanes() { return _mm256_set1_epi32(-1); }
/// The first `count` lanes, at most all of them.
ATELIER_INLINE Lanes first_lanes(int64_t count) {
  const int many = static_cast<int>(min64(count, kLanes));
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(many), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
ATELIER_INLINE bool is_all(Lanes lanes) { return _mm256_movemask_ps(from_words(lanes)) == 0xff; }
/// x in the given lanes, else 0.
ATELIER_INLINE Vec keep(Lanes lanes, Vec x) { return _mm256_and_ps(from_words(lanes), x); }

ATELIER_INLINE Vec widen8(__m128i bits) {
  return from_words(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
/// Eight bf16, rounded to nearest even.
ATELIER_INLINE __m128i narrow8(Vec value) {
  const __m256i bits = to_words(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256 nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256 chosen = _mm256_blendv_ps(from_words(rounded), from_words(quiet), nan);
  const __m256i halves = _mm256_srli_epi32(to_words(chosen), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256(halves, 1));
}

/// What numbers of 16 bits AVX2 cannot load or store in part goes through a buffer of eight.
template <class T>
struct Partial {
  alignas(16) T numbers[8] = {};
  Partial() = default;
  Partial(const T* p, Lanes lanes) {
    const int mask = _mm256_movemask_ps(from_words(lanes));
    for (int i = 0; i < 8 && (mask >> i & 1) != 0; ++i) numbers[i] = p[i];
  }
  __m128i bits() const { return _mm_load_si128(reinterpret_cast<const __m128i*>(numbers)); }
};
/// The same numbers with bf16's precision.
ATELIER_INLINE Vec rounded_to_bf16(Vec value) { return widen8(narrow8(value)); }

ATELIER_INLINE Vec load(const float* p) { return _mm256_loadu_ps(p); }
ATELIER_INLINE Vec load(const Bf16* p) {
  return widen8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
ATELIER_INLINE Vec load(const float* p, Lanes lanes) { return _mm256_maskload_ps(p, lanes); }
ATELIER_INLINE Vec load(const Bf16* p, Lanes lanes) {
  return is_all(lanes) ? load(p) : widen8(Partial<Bf16>(p, lanes).bits());
}
ATELIER_INLINE Vec load(const Fp16* p, Lanes lanes) {
  return _mm256_cvtph_ps(is_all(lanes) ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))
                                       : Partial<Fp16>(p, lanes).bits());
}
ATELIER_INLINE void store(float* p, Vec value) { _mm256_storeu_ps(p, value); }
ATELIER_INLINE void store(float* p, Vec value, Lanes lanes) {
  _mm256_maskstore_ps(p, lanes, value);
}
ATELIER_INLINE void store(Bf16* p, Vec value, Lanes lanes) {
  if (is_all(lanes)) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow8(value));
    return;
  }
  Partial<Bf16> part;
  _mm_store_si128(reinterpret_cast<__m128i*>(part.numbers), narrow8(value));
  const int mask = _mm256_movemask_ps(from_words(lanes));
  for (int i = 0; i < 8 && (mask >> i & 1) != 0; ++i) p[i] = part.numbers[i];
}
/// At an address aligned to the vector.
ATELIER_INLINE Vec load_aligned(const float* p) { return _mm256_load_ps(p); }
ATELIER_INLINE Words load_aligned(const uint32_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}
ATELIER_INLINE void store_aligned(float* p, Vec value) { _mm256_store_ps(p, value); }
/// Past the caches, to an address aligned to the vector stored.
ATELIER_INLINE void stream(float* p, Vec value) { _mm256_stream_ps(p, value); }
ATELIER_INLINE void stream(Bf16* p, Vec value) {
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow8(value));
}

/// 2^x with relative error 7.5e-5 (bf16) or 2e-7 (fp32): 2^floor(x) times a minimax polynomial in
/// x - floor(x). Below -127 it is 0; infinity from 128 on; NaN of NaN.
template <Precision precision>
ATELIER_INLINE Vec exp2(Vec x) {
  const Vec inside = min(splat(128), max(splat(-127), x));  // of NaN the second operand
  const Vec whole = _mm256_floor_ps(inside);
  const Vec r = sub(inside, whole);
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
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
  return mul(p, from_words(_mm256_slli_epi32(exponent, 23)));
}

/// 1 / x; about 12 bits for bf16.
template <Precision precision>
ATELIER_INLINE Vec reciprocal(Vec x) {
  if constexpr (precision == Precision::bf16) return _mm256_rcp_ps(x);
  return div(splat(1), x);
}

/// Transposes 8 x 8 words in place.
ATELIER_INLINE void transpose(Words (&r)[kLanes]) {
  Words t[8];
  ATELIER_UNROLL for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  ATELIER_UNROLL for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  ATELIER_UNROLL for (int i = 0; i < 4; ++i) {
    const Words low = r[i], high = r[i + 4];
    r[i] = _mm256_permute2x128_si256(low, high, 0x20);
    r[i + 4] = _mm256_permute2x128_si256(low, high, 0x31);
  }
}

/// Numbers of T in a word, as products take them.
template <class T>
constexpr int kPerWord = 1;

/// acc + a . b; `a` is one word for all lanes.
template <class T>
ATELIER_INLINE Vec dot(Vec acc, Words b, const uint32_t* a) {
  return fma(from_words(b), _mm256_broadcast_ss(reinterpret_cast<const float*>(a)), acc);
}

/// kLanes words of a row; `count` numbers are read, the rest is zero.
template <class T>
ATELIER_INLINE Words load_words(const T* p, int64_t count) {
  return to_words(load(p, first_lanes(count)));
}
/// The first `count` numbers of words.
template <class T>
ATELIER_INLINE void store_words(T* p, Words words, int64_t count) {
  store(p, from_words(words), first_lanes(count));
}
/// The first `count` words themselves.
ATELIER_INLINE void store_raw(uint32_t* p, Words words, int64_t count) {
  _mm256_maskstore_epi32(reinterpret_cast<int*>(p), first_lanes(count), words);
}
/// Words of numbers.
template <class T>
ATELIER_INLINE Words make_words(Vec low, Vec) {
  return to_words(low);
}
/// The upper halves of both, `low` below.
ATELIER_INLINE Words pair_halves(Vec low, Vec high) {
  return _mm256_or_si256(_mm256_srli_epi32(to_words(low), 16), to_words(high));
}
/// kLanes numbers as words side by side.
template <class T>
ATELIER_INLINE void store_numbers(uint32_t* p, Vec value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_words(value));
}

}  // namespace
}  // namespace atelier
