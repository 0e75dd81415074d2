// Vectors of 8 lanes: AVX2 with F16C. See portable_vector.h.
#pragma once

#include <immintrin.h>

#include "quant/codec/block.h"
#include "quant/codec/stored_numbers.h"

namespace atelier {
namespace {

#define ATELIER_LANES __attribute__((always_inline)) inline

constexpr int kLanes = 8;
using Floats = __m256;

ATELIER_LANES Floats splat(float value) { return _mm256_set1_ps(value); }
ATELIER_LANES Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
ATELIER_LANES Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
ATELIER_LANES Floats load_codes(const int8_t* codes) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes));
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}
ATELIER_LANES __m256 is_nan(Floats value) { return _mm256_cmp_ps(value, value, _CMP_UNORD_Q); }
ATELIER_LANES Floats one_nan(Floats value) {
  return _mm256_blendv_ps(value, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fc00000)), is_nan(value));
}

ATELIER_LANES void store(float* to, Floats value) { _mm256_storeu_ps(to, value); }
ATELIER_LANES void store(Bf16* to, Floats value) {
  const __m256i bits = _mm256_castps_si256(value);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i upper = _mm256_srli_epi32(rounded, 16);
  const __m256i words =
      _mm256_blendv_epi8(upper, _mm256_set1_epi32(0x7fc0), _mm256_castps_si256(is_nan(value)));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(packed));
}
ATELIER_LANES void store(Fp16* to, Floats value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
}

// At once, so that a load of all 16 bytes soon after need not wait for the cache.
ATELIER_LANES void store_words(int8_t* to, uint64_t low, uint64_t high) {
  _mm_store_si128(reinterpret_cast<__m128i*>(to),
                  _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low)));
}

ATELIER_LANES void store_signed(int8_t* to, uint64_t low, uint64_t high, unsigned signs) {
  const __m128i bytes = _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
  const __m128i which = _mm_set_epi64x(0x0101010101010101, 0);
  const __m128i bit = _mm_set1_epi64x(static_cast<int64_t>(0x8040201008040201));
  const __m128i spread = _mm_shuffle_epi8(_mm_cvtsi32_si128(static_cast<int>(signs)), which);
  const __m128i set = _mm_cmpeq_epi8(_mm_and_si128(spread, bit), bit);
  const __m128i factor = _mm_or_si128(set, _mm_set1_epi8(1));  // -1 or 1
  _mm_store_si128(reinterpret_cast<__m128i*>(to), _mm_sign_epi8(bytes, factor));
}

ATELIER_LANES void look_up(const Lookup16& table, int8_t* codes, int count) {
  const __m128i row =
      _mm_set_epi64x(static_cast<int64_t>(table.high), static_cast<int64_t>(table.low));
  for (int i = 0; i < count; i += 16) {  // as wide as the stores before
    auto* at = reinterpret_cast<__m128i*>(codes + i);
    _mm_store_si128(at, _mm_shuffle_epi8(row, _mm_load_si128(at)));
  }
}

ATELIER_LANES __m128i load_words(const std::byte* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
ATELIER_LANES __m128i load_bytes(const std::byte* from) {
  return _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
}

ATELIER_LANES Floats load_doubles(const std::byte* from) {
  const auto* p = reinterpret_cast<const double*>(from);
  return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(p + 4)),
                         _mm256_cvtpd_ps(_mm256_loadu_pd(p)));
}

struct StoredFloat : ScalarFloat {
  ATELIER_LANES static Floats load(const std::byte* from) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(from));
  }
};
struct StoredHalf : ScalarHalf {
  ATELIER_LANES static Floats load(const std::byte* from) {
    return _mm256_cvtph_ps(load_words(from));
  }
};
struct StoredBf16 : ScalarBf16 {
  ATELIER_LANES static Floats load(const std::byte* from) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_words(from)), 16));
  }
};
/// As fp16 with the same bits, E4M3 is 2^-8 of what it means; all but its NaN.
struct StoredE4M3 : ScalarE4M3 {
  ATELIER_LANES static Floats load(const std::byte* from) {
    const __m128i words = load_bytes(from);
    const __m128i magnitude = _mm_and_si128(words, _mm_set1_epi16(0x7f));
    const __m128i sign = _mm_slli_epi16(_mm_andnot_si128(magnitude, words), 8);
    const __m128i half = _mm_or_si128(sign, _mm_slli_epi16(magnitude, 7));
    const __m256 value = _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256));
    const __m128i nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f));
    const __m256i filled =
        _mm256_or_si256(_mm256_castps_si256(value), _mm256_set1_epi32(0x7ff00000));
    return _mm256_blendv_ps(value, _mm256_castsi256_ps(filled),
                            _mm256_castsi256_ps(_mm256_cvtepi16_epi32(nan)));
  }
};
struct StoredE5M2 : ScalarE5M2 {
  ATELIER_LANES static Floats load(const std::byte* from) {
    return _mm256_cvtph_ps(_mm_slli_epi16(load_bytes(from), 8));
  }
};
template <class Table>
struct StoredNibbles : ScalarNibbles<Table> {
  ATELIER_LANES static Floats load(const std::byte* from) {
    int word = 0;
    __builtin_memcpy(&word, from, 4);
    const __m128i bytes = _mm_cvtsi32_si128(word);
    const __m256i codes = _mm256_cvtepu8_epi32(_mm_unpacklo_epi8(_mm_srli_epi16(bytes, 4), bytes));
    const __m256 low = _mm256_permutevar8x32_ps(eight<0>(), codes);
    const __m256 high = _mm256_permutevar8x32_ps(eight<8>(), codes);
    const __m256 upper = _mm256_castsi256_ps(_mm256_slli_epi32(codes, 28));
    return _mm256_blendv_ps(low, high, upper);
  }

 private:
  template <int kFirst>
  ATELIER_LANES static Floats eight() {
    return _mm256_setr_ps(Table::value(kFirst), Table::value(kFirst + 1), Table::value(kFirst + 2),
                          Table::value(kFirst + 3), Table::value(kFirst + 4),
                          Table::value(kFirst + 5), Table::value(kFirst + 6),
                          Table::value(kFirst + 7));
  }
};

}  // namespace
}  // namespace atelier
