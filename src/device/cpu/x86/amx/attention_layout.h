// How the AMX attention lays out queries, keys, values and its working memory.
//
// Shapes: D head size, M keys, E depth of a head in tiles of 32 numbers, F width in tiles of 16
// numbers of a head and a one. Keys come in groups of 32. Packed, per head: keys [M / 32][2][E]
// [16 d pairs][16 keys][2], values [M / 32][F][16 pairs of keys i, 16 + i][16 d][2], largest norm
// of each group's keys [M / 32] fp32. M is rounded up to 32 with zeros. Column D of the values is 1
// for every key there is, so that the product with the values also sums up the probabilities.
#pragma once

#include "device/cpu/attention.h"
#include "device/cpu/x86/amx/tiles.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int kQueries = 32;  // worked on at a time
constexpr int kKeys = 32;  // of a group
constexpr int kGroups = 12;  // most per block of keys, whose probabilities stay in the first cache
constexpr int kQueryBlocks = 8;  // most that share a block of keys and values from the second cache
constexpr int64_t kBlockBytes = 256 << 10;  // of such a block

/// The parts of one head's packed keys and values.
class Layout {
 public:
  Layout(int64_t head_size, int64_t keys)
      : size_(head_size),
        keys_(keys),
        depth_(divide_up(head_size, kTileWidth)),
        width_(head_size / 16 + 1),
        groups_(divide_up(keys, kKeys)) {}

  int64_t size() const { return size_; }
  int64_t keys() const { return keys_; }
  int64_t depth() const { return depth_; }
  int64_t width() const { return width_; }
  int64_t groups() const { return groups_; }
  /// Groups per block of keys.
  int64_t block_groups() const {
    return max64(4, min64(kGroups, kBlockBytes / ((2 * depth_ + width_) * kTileBytes)));
  }
  bool partial(int64_t group) const { return (group + 1) * kKeys > keys_; }

  int64_t packed_bytes() const {
    return round_up(value_offset() + groups_ * width_ * kTileBytes + groups_ * 4, 64);
  }
  /// Two times E tiles of a group's keys.
  const char* keys_of(const char* packed, int64_t group) const {
    return packed + group * 2 * depth_ * kTileBytes;
  }
  /// F tiles of a group's values.
  const char* values_of(const char* packed, int64_t group) const {
    return packed + value_offset() + group * width_ * kTileBytes;
  }
  const float* norms(const char* packed) const {
    return reinterpret_cast<const float*>(packed + value_offset() + groups_ * width_ * kTileBytes);
  }

 private:
  int64_t value_offset() const { return groups_ * 2 * depth_ * kTileBytes; }

  int64_t size_, keys_, depth_, width_, groups_;
};

/// Memory of one thread that all its queries use in turn.
struct Work {
  float* s = nullptr;  // scores [2 halves of rows][2 of keys][16][16]
  char* p = nullptr;  // probabilities [kGroups][2] tiles of 16 rows

  static constexpr int64_t kBytes = (4 + 2 * kGroups) * kTileBytes;
  Work() = default;
  explicit Work(void* memory)
      : s(static_cast<float*>(memory)), p(static_cast<char*>(memory) + 4 * kTileBytes) {}
};

/// Memory of one block of 32 queries.
struct QueryMemory {
  char* q = nullptr;  // [2][E] tiles of 16 rows
  float* o = nullptr;  // sums [F][32][16]
  float* reference = nullptr;  // [32]: subtracted from scores, in steps
  float* offset = nullptr;  // [32]: what makes steps of scores

  QueryMemory() = default;

  static int64_t bytes(const Layout& layout) {
    return 2 * (layout.depth() + layout.width()) * kTileBytes + 256;
  }
  QueryMemory(const Layout& layout, void* memory) {
    q = static_cast<char*>(memory);
    o = reinterpret_cast<float*>(q + 2 * layout.depth() * kTileBytes);
    reference = o + 2 * layout.width() * kTileBytes / 4;
    offset = reference + kQueries;
  }
};

/// The lanes of each of 16 vectors added up, or their maximum, as one vector.
template <bool kAdd>
ATELIER_INLINE __m512 reduce_rows(const __m512 (&rows)[16]) {
  __m512i words[16];
  for (int i = 0; i < 16; ++i) words[i] = _mm512_castps_si512(rows[i]);
  transpose(words);
  __m512 result = _mm512_castsi512_ps(words[0]);
  ATELIER_UNROLL for (int i = 1; i < 16; ++i) {
    const __m512 next = _mm512_castsi512_ps(words[i]);
    result = kAdd ? _mm512_add_ps(result, next) : _mm512_max_ps(result, next);
  }
  return result;
}

/// The greater of sums of squares. Compared as bits, so that NaN is greater than all numbers.
ATELIER_INLINE __m512 greater(__m512 a, __m512 b) {
  return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
ATELIER_INLINE float greatest(__m512 a) {
  return __builtin_bit_cast(float, _mm512_reduce_max_epu32(_mm512_castps_si512(a)));
}

inline void pack_keys(const Layout& layout, const Bf16* k, int64_t stride, int64_t group,
                      char* packed) {
  __m512 largest = _mm512_setzero_ps();
  for (int half = 0; half < 2; ++half) {
    char* tiles =
        const_cast<char*>(layout.keys_of(packed, group)) + half * layout.depth() * kTileBytes;
    __m512 squares = _mm512_setzero_ps();
    for (int64_t e = 0; e < layout.depth(); ++e) {
      __m512i rows[16];
      for (int i = 0; i < 16; ++i) {
        const int64_t key = group * kKeys + half * 16 + i;
        const __mmask32 lanes =
            key < layout.keys() ? first_halves(layout.size() - e * kTileWidth) : 0;
        rows[i] = _mm512_maskz_loadu_epi16(
            lanes, k + min64(key, layout.keys() - 1) * stride + e * kTileWidth);
      }
      transpose(rows);
      for (int i = 0; i < 16; ++i) {
        _mm512_store_si512(tiles + e * kTileBytes + i * 64, rows[i]);
        squares = _mm512_dpbf16_ps(squares, (__m512bh)rows[i], (__m512bh)rows[i]);
      }
    }
    largest = greater(largest, squares);
  }
  const_cast<float*>(layout.norms(packed))[group] = __builtin_sqrtf(greatest(largest));
}

inline void pack_values(const Layout& layout, const Bf16* v, int64_t stride, int64_t group,
                        char* packed) {
  constexpr int kBf16One = 0x3f80;
  for (int64_t f = 0; f < layout.width(); ++f) {
    char* tile = const_cast<char*>(layout.values_of(packed, group)) + f * kTileBytes;
    const int64_t left = layout.size() - f * 16;  // below 16 in the last tile only
    const __mmask16 one = left < 16 ? static_cast<__mmask16>(1U << left) : __mmask16{0};
    for (int i = 0; i < 16; ++i) {
      __m512i pair[2] = {};
      for (int j = 0; j < 2; ++j) {
        const int64_t key = group * kKeys + i + 16 * j;
        if (key >= layout.keys()) continue;
        const Bf16* row = v + key * stride + f * 16;
        const __m512i bits =
            _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(left), row));
        pair[j] = _mm512_mask_set1_epi32(bits, one, kBf16One);
      }
      _mm512_store_si512(tile + i * 64, _mm512_or_si512(pair[0], _mm512_slli_epi32(pair[1], 16)));
    }
  }
}

/// Copies `count` queries, padded with zeros; returns the norm of the largest, NaN if one has any.
inline float load_queries(const Layout& layout, const Bf16* q, int64_t stride, int64_t count,
                          char* tiles) {
  __m512 largest = _mm512_setzero_ps();
  for (int64_t half = 0; half < 2; ++half) {
    __m512 squares[16];
    for (int64_t i = 0; i < 16; ++i) {
      const int64_t row = half * 16 + i;
      squares[i] = _mm512_setzero_ps();
      for (int64_t e = 0; e < layout.depth(); ++e) {
        const __mmask32 lanes = row < count ? first_halves(layout.size() - e * kTileWidth) : 0;
        const __m512i numbers =
            _mm512_maskz_loadu_epi16(lanes, q + min64(row, count - 1) * stride + e * kTileWidth);
        squares[i] = _mm512_dpbf16_ps(squares[i], (__m512bh)numbers, (__m512bh)numbers);
        _mm512_store_si512(tiles + (half * layout.depth() + e) * kTileBytes + i * 64, numbers);
      }
    }
    largest = greater(largest, reduce_rows<true>(squares));
  }
  return __builtin_sqrtf(greatest(largest));
}

/// Norm of the largest key; NaN if one has any.
inline float largest_key(const Layout& layout, const char* packed) {
  const float* norms = layout.norms(packed);
  __m512 largest = _mm512_setzero_ps();
  for (int64_t i = 0; i < layout.groups(); i += 16) {
    largest = greater(largest, load(norms + i, first_lanes(layout.groups() - i)));
  }
  return greatest(largest);
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
