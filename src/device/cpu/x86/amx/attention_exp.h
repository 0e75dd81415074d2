// From scores to bf16 probabilities by integer arithmetic, for 16 queries and 32 keys.
//
// With x counted in steps of 1/128, the upper bits of 2^x as a bf16 number are those of floor(x)
// and its 7 bits of mantissa come from a table of 128 bytes. A probability is within 0.5 % of the
// exact one, where rounding to bf16 alone costs up to 0.4 %; the sum is taken over the same
// numbers. Scores of keys i and 16 + i share a 32-bit word, i below: the order in which values are
// packed.
#pragma once

#include "device/cpu/x86/amx/attention_layout.h"

namespace atelier {
namespace {
namespace tiled {

constexpr float kSteps = 128;  // per power of two
constexpr float kOne = 127 * kSteps;  // the step of probability 1
constexpr int kLimit = (127 + 64) * 128;  // the highest step that calls for no new reference
constexpr float kSmallScore = 56 * kSteps;  // scores within it need no reference
constexpr float kSafeScore = 1 << 29;  // scores within it fit the integers
constexpr float kNothing = -3e38F;  // reference of a query that has seen no key

/// Additive terms of a head for the queries at work.
struct Mask {
  const float* data = nullptr;  // row of the first query
  int64_t query_stride = 0;
  bool causal = false;
  int64_t first_query = 0, last_row = 0;  // rows past it have no numbers of their own
  bool any() const { return data != nullptr || causal; }
};

/// Mantissas of 2^(i / 128).
struct Mantissas {
  alignas(64) uint8_t bytes[128];
  Mantissas() {
    for (int i = 0; i < 128; ++i) {
      bytes[i] = static_cast<uint8_t>((__builtin_exp2(i / 128.0) - 1) * 128 + 0.5);
    }
  }
};

/// Terms of 16 keys from `key` on for one query, in steps; -infinity where hidden.
ATELIER_INLINE __m512 mask_steps(const Mask& mask, int64_t row, int64_t key, int64_t keys) {
  __mmask16 visible = first_lanes(max64(0, keys - key));
  if (mask.causal) visible &= first_lanes(max64(0, mask.first_query + row + 1 - key));
  __m512 steps = _mm512_setzero_ps();
  if (mask.data != nullptr) {
    const float* at = mask.data + min64(row, mask.last_row) * mask.query_stride + key;
    steps = _mm512_mul_ps(load(at, visible), splat(kLog2E * kSteps));
  }
  return _mm512_mask_mov_ps(splat(-__builtin_inff()), visible, steps);
}

class Exponential {
 public:
  Exponential(const Mantissas& mantissas, float scale)
      : scale_(splat(scale)),
        table_{_mm512_load_si512(mantissas.bytes), _mm512_load_si512(mantissas.bytes + 64)} {}

  /// For scores within kSmallScore: s [2][16 queries][16 keys] -> p [16 queries][32 keys].
  ATELIER_INLINE_MEMBER void small(const float* s, char* p) const {
    // Adding 1.5 * 2^23 leaves the rounded steps in the lower bits.
    const __m512 offset = splat(kOne + 12582912.F), scale = scale_;
    const Table table = table_;  // a copy, which stores to p cannot change
#pragma GCC unroll 4
    for (int row = 0; row < 16; ++row, s += 16, p += 64) {
      const __m512 left = _mm512_fmadd_ps(_mm512_load_ps(s), scale, offset);
      const __m512 right = _mm512_fmadd_ps(_mm512_load_ps(s + 256), scale, offset);
      _mm512_store_si512(
          p, probabilities(_mm512_castps_si512(left), _mm512_castps_si512(right), table));
    }
  }

  /// The same for any scores. `highest` takes the highest steps.
  template <bool kMasked>
  ATELIER_INLINE_MEMBER void general(const float* s, const float* offsets, const Mask& mask,
                                     int64_t first_row, int64_t key, int64_t keys, char* p,
                                     __m512i& highest) const {
    const __m512 scale = scale_;
    const Table table = table_;
    for (int row = 0; row < 16; ++row, s += 16, p += 64) {
      const __m512 offset = splat(offsets[first_row + row]);
      __m512 left = _mm512_fmadd_ps(_mm512_load_ps(s), scale, offset);
      __m512 right = _mm512_fmadd_ps(_mm512_load_ps(s + 256), scale, offset);
      if constexpr (kMasked) {
        left = _mm512_add_ps(left, mask_steps(mask, first_row + row, key, keys));
        right = _mm512_add_ps(right, mask_steps(mask, first_row + row, key + 16, keys));
      }
      const __m512i zero = _mm512_setzero_si512();
      const __m512i a = _mm512_max_epi32(_mm512_cvtps_epi32(left), zero);
      const __m512i b = _mm512_max_epi32(_mm512_cvtps_epi32(right), zero);
      highest = _mm512_max_epi32(highest, _mm512_max_epi32(a, b));
      _mm512_store_si512(p, probabilities(a, b, table));
    }
  }

  /// Takes the scores, in steps, into the highest of each query.
  template <bool kMasked>
  ATELIER_INLINE_MEMBER __m512 maximum(const float* s, const Mask& mask, int64_t first_row,
                                       int64_t key, int64_t keys, __m512 highest) const {
    __m512 rows[16];
    for (int row = 0; row < 16; ++row, s += 16) {
      __m512 left = _mm512_mul_ps(_mm512_load_ps(s), scale_);
      __m512 right = _mm512_mul_ps(_mm512_load_ps(s + 256), scale_);
      if constexpr (kMasked) {
        left = _mm512_add_ps(left, mask_steps(mask, first_row + row, key, keys));
        right = _mm512_add_ps(right, mask_steps(mask, first_row + row, key + 16, keys));
      }
      rows[row] = _mm512_max_ps(left, right);
    }
    return _mm512_max_ps(highest, reduce_rows<false>(rows));
  }

 private:
  struct Table {
    __m512i low, high;
  };

  // The lower 16 bits of each word are steps.
  ATELIER_INLINE_MEMBER static __m512i probabilities(__m512i left, __m512i right,
                                                     const Table& table) {
    constexpr int kA = 0xf0, kB = 0xcc, kC = 0xaa;  // ternary logic: truth tables of the operands
    constexpr __mmask64 kLowBytes = 0x5555555555555555;
    const __m512i steps = _mm512_ternarylogic_epi32(left, _mm512_slli_epi32(right, 16),
                                                    _mm512_set1_epi32(0xffff), (kA & kC) | kB);
    const __m512i mantissa =
        _mm512_maskz_permutex2var_epi8(kLowBytes, table.low, steps, table.high);
    return _mm512_ternarylogic_epi32(
        steps, mantissa, _mm512_set1_epi32(static_cast<int>(0xff80ff80)), (kA & kC) | kB);
  }

  __m512 scale_;
  Table table_;
};

}  // namespace tiled
}  // namespace
}  // namespace atelier
