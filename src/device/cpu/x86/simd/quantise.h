// Rows of numbers as signed 8-bit integers under a scale for each row: the largest magnitude of the
// row becomes 127, every other number the nearest integer of that scale, ties to even.
//
// Integers come as quads of 4 kLanes. Their order within a quad is that of the fewest instructions,
// the same for all storage types: byte j of word i is number 2 i + j of the quad's first half for
// j < 2, and number 2 i + j - 2 of its second half for the others. A product of two rows in one
// order is that of any other.
#pragma once

#include <string.h>

#include "device/cpu/x86/simd/vector.h"
#if defined(__AVX512F__)
#include "device/cpu/x86/avx512/bytes.h"
#else
#include "device/cpu/x86/avx2/bytes.h"
#endif

namespace atelier {
namespace {

constexpr int64_t kQuad = 4 * kLanes;
/// Rows with no larger magnitude are taken as zero: their scale would have no reciprocal.
constexpr float kLeastMagnitude = 1e-30F;
/// Depth up to which sums of products stay below 2^31, whatever the integers.
constexpr int64_t kMostQuantisedInputs = 1 << 16;

/// Calls body(quad, numbers) for the quads of a row; what the last lacks is zero.
template <class T, class F>
ATELIER_INLINE void for_quads(const T* row, int64_t count, const F& body) {
  const int64_t whole = count / kQuad;
  for (int64_t quad = 0; quad < whole; ++quad) body(quad, row + quad * kQuad);
  if (whole * kQuad == count) return;
  alignas(64) T last[kQuad] = {};
  memcpy(last, row + whole * kQuad, static_cast<size_t>(count - whole * kQuad) * sizeof(T));
  body(whole, last);
}

/// The largest magnitude of a row; NaN if it has one.
template <class T>
ATELIER_INLINE float largest_magnitude(const T* row, int64_t count) {
  Words most = splat_word(0);
  for_quads(row, count, [&](int64_t, const T* quad) {
    if constexpr (sizeof(T) == 4) {
      const Words magnitude = splat_word(0x7fffffff);
      ATELIER_UNROLL for (int i = 0; i < 4; ++i) {
        most = larger32(most, and_words(load_words_raw(quad + i * kLanes), magnitude));
      }
    } else {
      const Words magnitude = splat_word(0x7fff7fff);
      ATELIER_UNROLL for (int i = 0; i < 2; ++i) {
        most = larger16(most, and_words(load_words_raw(quad + 2 * i * kLanes), magnitude));
      }
    }
  });
  if constexpr (sizeof(T) == 4) {
    return bits_float(largest32(most));
  } else {
    const Words low = and_words(most, splat_word(0xffff));
    return widen(T{static_cast<uint16_t>(largest32(larger32(low, shift_down16(most))))});
  }
}

/// The numbers of a quad in the order of bytes.
template <class T>
ATELIER_INLINE void load_quad(const T* quad, Vec (&numbers)[4]) {
  ATELIER_UNROLL for (int i = 0; i < 4; ++i) { numbers[i] = load(quad + i * kLanes, all_lanes()); }
  deinterleave(numbers[0], numbers[1]);
  deinterleave(numbers[2], numbers[3]);
}
ATELIER_INLINE void load_quad(const Bf16* quad, Vec (&numbers)[4]) {
  ATELIER_UNROLL for (int i = 0; i < 4; i += 2) {
    const Words both = load_words_raw(quad + i * kLanes);
    numbers[i] = from_words(shift_up16(both));
    numbers[i + 1] = from_words(and_words(both, splat_word(static_cast<int32_t>(0xffff0000))));
  }
}

/// Gives body(quad, bytes) the integers of a row, each plus `offset`; returns the row's scale, NaN
/// if there is an infinity or NaN in the row.
template <class T, class F>
ATELIER_INLINE float quantise_row(const T* row, int64_t count, int offset, const F& body) {
  const float largest = largest_magnitude(row, count);
  const bool nothing = largest < kLeastMagnitude;
  const Vec inverse = splat(nothing ? 0 : 127 / largest);
  // Added to 1.5 * 2^23, a number loses its fraction and its integer ends up in the lowest byte.
  const Vec base = splat(12582912.F + static_cast<float>(offset));
  for_quads(row, count, [&](int64_t index, const T* quad) {
    Vec numbers[4];
    load_quad(quad, numbers);
    ATELIER_UNROLL for (int i = 0; i < 4; ++i) numbers[i] = fma(numbers[i], inverse, base);
    body(index, join_bytes(to_words(numbers[0]), to_words(numbers[1]), to_words(numbers[2]),
                           to_words(numbers[3])));
  });
  const float not_finite = largest - largest;  // 0, or NaN
  return nothing ? 0 : largest / 127 + not_finite;
}

}  // namespace
}  // namespace atelier
