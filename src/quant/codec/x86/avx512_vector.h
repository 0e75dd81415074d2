// Vectors of 16 lanes: AVX-512 F, BW, VL, DQ. See portable_vector.h.
#pragma once

#include <immintrin.h>

#include "quant/codec/block.h"
#include "quant/codec/stored_numbers.h"

namespace atelier {
namespace {

#define ATELIER_LANES __attribute__((always_inline)) inline

constexpr int kLanes = 16;
using Floats = __m512;

ATELIER_LANES Floats splat(float value) { return _mm512_set1_ps(value); }
ATELIER_LANES Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
ATELIER_LANES Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
ATELIER_LANES Floats load_codes(const int8_t* codes) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}
ATELIER_LANES __mmask16 is_nan(Floats value) {
  return _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
}
ATELIER_LANES Floats one_nan(Floats value) {
  return _mm512_mask_mov_ps(value, is_nan(value),
                            _mm512_castsi512_ps(_mm512_set1_epi32(0x7fc00000)));
}

ATELIER_LANES void store(float* to, Floats value) { _mm512_storeu_ps(to, value); }
ATELIER_LANES void store(Bf16* to, Floats value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i upper = _mm512_srli_epi32(rounded, 16);
  const __m512i words = _mm512_mask_mov_epi32(upper, is_nan(value), _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(words));
}
ATELIER_LANES void store(Fp16* to, Floats value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

// At once, so that a load of all 16 bytes soon after need not wait for the cache.
ATELIER_LANES void store_words(int8_t* to, uint64_t low, uint64_t high) {
  _mm_store_si128(reinterpret_cast<__m128i*>(to),
                  _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low)));
}

ATELIER_LANES void store_signed(int8_t* to, uint64_t low, uint64_t high, unsigned signs) {
  const __m128i bytes = _mm_set_epi64x(static_cast<int64_t>(high), static_cast<int64_t>(low));
  const auto negative = static_cast<__mmask16>(signs);
  _mm_store_si128(reinterpret_cast<__m128i*>(to),
                  _mm_mask_sub_epi8(bytes, negative, _mm_setzero_si128(), bytes));
}

ATELIER_LANES void look_up(const Lookup16& table, int8_t* codes, int count) {
  const __m128i row =
      _mm_set_epi64x(static_cast<int64_t>(table.high), static_cast<int64_t>(table.low));
  for (int i = 0; i < count; i += 16) {  // as wide as the stores before
    auto* at = reinterpret_cast<__m128i*>(codes + i);
    _mm_store_si128(at, _mm_shuffle_epi8(row, _mm_load_si128(at)));
  }
}

ATELIER_LANES __m256i load_words(const std::byte* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
ATELIER_LANES __m256i load_bytes(const std::byte* from) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}

ATELIER_LANES Floats load_doubles(const std::byte* from) {
  const auto* p = reinterpret_cast<const double*>(from);
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_loadu_pd(p))),
                            _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8)), 1);
}

struct StoredFloat : ScalarFloat {
  ATELIER_LANES static Floats load(const std::byte* from) {
    return _mm512_loadu_ps(reinterpret_cast<const float*>(from));
  }
};
struct StoredHalf : ScalarHalf {
  ATELIER_LANES static Floats load(const std::byte* from) {
    return _mm512_cvtph_ps(load_words(from));
  }
};
struct StoredBf16 : ScalarBf16 {
  ATELIER_LANES static Floats load(const std::byte* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_words(from)), 16));
  }
};
/// As fp16 with the same bits, E4M3 is 2^-8 of what it means; all but its NaN.
struct StoredE4M3 : ScalarE4M3 {
  ATELIER_LANES static Floats load(const std::byte* from) {
    const __m256i words = load_bytes(from);
    const __m256i magnitude = _mm256_and_si256(words, _mm256_set1_epi16(0x7f));
    const __m256i sign = _mm256_slli_epi16(_mm256_andnot_si256(magnitude, words), 8);
    const __m256i half = _mm256_or_si256(sign, _mm256_slli_epi16(magnitude, 7));
    const __m512 value = _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256));
    const __mmask16 nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f));
    const __m512i filled =
        _mm512_or_si512(_mm512_castps_si512(value), _mm512_set1_epi32(0x7ff00000));
    return _mm512_mask_mov_ps(value, nan, _mm512_castsi512_ps(filled));
  }
};
struct StoredE5M2 : ScalarE5M2 {
  ATELIER_LANES static Floats load(const std::byte* from) {
    return _mm512_cvtph_ps(_mm256_slli_epi16(load_bytes(from), 8));
  }
};
template <class Table>
struct StoredNibbles : ScalarNibbles<Table> {
  ATELIER_LANES static Floats load(const std::byte* from) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    const __m128i pairs = _mm_unpacklo_epi8(_mm_srli_epi16(bytes, 4), bytes);
    const __m512 table =
        _mm512_setr_ps(Table::value(0), Table::value(1), Table::value(2), Table::value(3),
                       Table::value(4), Table::value(5), Table::value(6), Table::value(7),
                       Table::value(8), Table::value(9), Table::value(10), Table::value(11),
                       Table::value(12), Table::value(13), Table::value(14), Table::value(15));
    return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(pairs), table);
  }
};

}  // namespace
}  // namespace atelier
