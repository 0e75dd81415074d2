// Numbers to and from 8-bit integers: AVX-512. See x86/simd/quantise.h.
#pragma once

#include "device/cpu/x86/avx512/vector.h"

namespace atelier {
namespace {

ATELIER_INLINE Words load_words_raw(const void* p) { return _mm512_loadu_si512(p); }
ATELIER_INLINE void store_words_raw(void* p, Words words) { _mm512_storeu_si512(p, words); }
ATELIER_INLINE Words splat_word(int32_t value) { return _mm512_set1_epi32(value); }
ATELIER_INLINE Words and_words(Words a, Words b) { return _mm512_and_si512(a, b); }
ATELIER_INLINE Words sub_words(Words a, Words b) { return _mm512_sub_epi32(a, b); }
ATELIER_INLINE Words shift_up16(Words a) { return _mm512_slli_epi32(a, 16); }
ATELIER_INLINE Words shift_down16(Words a) { return _mm512_srli_epi32(a, 16); }
/// The larger of unsigned integers of 32 and of 16 bits.
ATELIER_INLINE Words larger32(Words a, Words b) { return _mm512_max_epu32(a, b); }
ATELIER_INLINE Words larger16(Words a, Words b) { return _mm512_max_epu16(a, b); }
ATELIER_INLINE uint32_t largest32(Words a) { return _mm512_reduce_max_epu32(a); }
ATELIER_INLINE Vec to_numbers(Words integers) { return _mm512_cvtepi32_ps(integers); }

/// Numbers 0, 2, 4, ... and 1, 3, 5, ... of both.
ATELIER_INLINE void deinterleave(Vec& a, Vec& b) {
  const Words even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const Vec evens = _mm512_permutex2var_ps(a, even, b);
  b = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
  a = evens;
}

/// Words of the lowest bytes of four words, that of `a` lowest.
ATELIER_INLINE Words join_bytes(Words a, Words b, Words c, Words d) {
#if defined(__AVX512VBMI__)
  // Byte 4 i of the first, byte 4 i of the second (64 on); in both halves of the word.
  const Words halves =
      _mm512_setr_epi32(0x4000, 0x4404, 0x4808, 0x4c0c, 0x5010, 0x5414, 0x5818, 0x5c1c, 0x6020,
                        0x6424, 0x6828, 0x6c2c, 0x7030, 0x7434, 0x7838, 0x7c3c);
  const Words both = _mm512_or_si512(halves, _mm512_slli_epi32(halves, 16));
  return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_permutex2var_epi8(a, both, b),
                                 _mm512_permutex2var_epi8(c, both, d));
#else
  const Words low = _mm512_mask_blend_epi8(0x2222222222222222, a, _mm512_slli_epi32(b, 8));
  const Words high = _mm512_mask_blend_epi8(0x8888888888888888, _mm512_slli_epi32(c, 16),
                                            _mm512_slli_epi32(d, 24));
  return _mm512_mask_blend_epi16(0xaaaaaaaa, low, high);
#endif
}

#if defined(__AVX512VNNI__)
/// acc + the four products of bytes in each word, those of `a` without sign; `a` is one word for
/// all lanes.
ATELIER_INLINE Words dot_bytes(Words acc, Words b, const uint32_t* a) {
  return _mm512_dpbusd_epi32(acc, _mm512_set1_epi32(static_cast<int>(*a)), b);
}
#endif

}  // namespace
}  // namespace atelier
