// Numbers to and from 8-bit integers: AVX2. See x86/simd/quantise.h.
#pragma once

#include "device/cpu/x86/avx2/vector.h"

namespace atelier {
namespace {

ATELIER_INLINE Words load_words_raw(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
ATELIER_INLINE void store_words_raw(void* p, Words words) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), words);
}
ATELIER_INLINE Words splat_word(int32_t value) { return _mm256_set1_epi32(value); }
ATELIER_INLINE Words and_words(Words a, Words b) { return _mm256_and_si256(a, b); }
ATELIER_INLINE Words sub_words(Words a, Words b) { return _mm256_sub_epi32(a, b); }
ATELIER_INLINE Words shift_up16(Words a) { return _mm256_slli_epi32(a, 16); }
ATELIER_INLINE Words shift_down16(Words a) { return _mm256_srli_epi32(a, 16); }
/// The larger of unsigned integers of 32 and of 16 bits.
ATELIER_INLINE Words larger32(Words a, Words b) { return _mm256_max_epu32(a, b); }
ATELIER_INLINE Words larger16(Words a, Words b) { return _mm256_max_epu16(a, b); }
ATELIER_INLINE uint32_t largest32(Words a) {
  __m128i m = _mm_max_epu32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
  return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
}
ATELIER_INLINE Vec to_numbers(Words integers) { return _mm256_cvtepi32_ps(integers); }

/// Numbers 0, 2, 4, ... and 1, 3, 5, ... of both.
ATELIER_INLINE void deinterleave(Vec& a, Vec& b) {
  const auto in_order = [](Vec lanes) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(lanes), 0xd8));
  };
  const Vec even = _mm256_shuffle_ps(a, b, 0x88), odd = _mm256_shuffle_ps(a, b, 0xdd);
  a = in_order(even);
  b = in_order(odd);
}

/// Words of the lowest bytes of four words, that of `a` lowest.
ATELIER_INLINE Words join_bytes(Words a, Words b, Words c, Words d) {
  const Words byte = splat_word(0xff);
  const Words low = _mm256_or_si256(and_words(a, byte), _mm256_slli_epi32(and_words(b, byte), 8));
  const Words third = _mm256_slli_epi32(and_words(c, byte), 16);
  return _mm256_or_si256(low, _mm256_or_si256(third, _mm256_slli_epi32(d, 24)));
}

#if defined(__AVXVNNI__)
/// acc + the four products of bytes in each word, those of `a` without sign; `a` is one word for
/// all lanes.
ATELIER_INLINE Words dot_bytes(Words acc, Words b, const uint32_t* a) {
  return _mm256_dpbusd_avx_epi32(acc, _mm256_set1_epi32(static_cast<int>(*a)), b);
}
#endif

}  // namespace
}  // namespace atelier
