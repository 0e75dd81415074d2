// Scores of the AMX attention: products of 32 queries with the keys, handed on half a group at a
// time.
//
// Tile operations start in order, and a stored score can be read only after its store has retired.
// So the products run half a group ahead of the stores, and the stores ahead of the exponentials.
#pragma once

#include "device/cpu/x86/amx/attention_layout.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int64_t kHalfScores = 2 * 256;  // numbers of s for 16 queries

/// Products of 32 queries with groups of keys for heads of any depth: half a group needs 2 sums.
class StreamedScores {
 public:
  StreamedScores(const Layout& layout, const char* q, float* s) : layout_(layout), q_(q), s_(s) {}

  /// Calls take(half, group) for each half of groups [begin, end) when its scores can be read.
  template <class F>
  ATELIER_INLINE_MEMBER void run(const char* packed, int64_t begin, int64_t end,
                                 const F& take) const {
    multiply<0>(layout_.keys_of(packed, begin));
    multiply<1>(layout_.keys_of(packed, begin));
    store<0>();
    for (int64_t group = begin + 1; group < end; ++group) {
      multiply<0>(layout_.keys_of(packed, group));
      store<1>();
      take(0, group - 1);
      multiply<1>(layout_.keys_of(packed, group));
      store<0>();
      take(1, group - 1);
    }
    store<1>();
    take(0, end - 1);
    take(1, end - 1);
  }

 private:
  template <int half>
  ATELIER_INLINE_MEMBER void multiply(const char* keys) const {
    tile_zero<2 * half>();
    tile_zero<2 * half + 1>();
    for (int64_t e = 0; e < layout_.depth(); ++e) {
      tile_load<4 + half>(q_ + (half * layout_.depth() + e) * kTileBytes, 64);
      tile_load<6>(keys + e * kTileBytes, 64);
      tile_load<7>(keys + (layout_.depth() + e) * kTileBytes, 64);
      tile_multiply<2 * half, 4 + half, 6>();
      tile_multiply<2 * half + 1, 4 + half, 7>();
    }
  }
  template <int half>
  ATELIER_INLINE_MEMBER void store() const {
    tile_store<2 * half>(s_ + half * kHalfScores, 64);
    tile_store<2 * half + 1>(s_ + half * kHalfScores + 256, 64);
  }

  const Layout& layout_;
  const char* q_;
  float* s_;
};

/// The same for heads of one or two tiles of depth, whose queries stay in tiles 2 to 5.
template <int kDepth>
class ResidentScores {
 public:
  ResidentScores(const Layout& layout, const char* q, float* s) : layout_(layout), q_(q), s_(s) {}

  template <class F>
  ATELIER_INLINE_MEMBER void run(const char* packed, int64_t begin, int64_t end,
                                 const F& take) const {
    tile_load<2>(q_, 64);
    if constexpr (kDepth == 2) tile_load<3>(q_ + kTileBytes, 64);
    tile_load<4>(q_ + kDepth * kTileBytes, 64);
    if constexpr (kDepth == 2) tile_load<5>(q_ + 3 * kTileBytes, 64);
    for (int64_t group = begin; group < end; ++group) {
      const char* keys = layout_.keys_of(packed, group);
      load_keys(keys);
      multiply<0>();
      if (group > begin) store<1, 1>();
      multiply<1>();
      store<0, 0>();
      if (group > begin) take(1, group - 1);
      load_keys(keys + kDepth * kTileBytes);
      multiply<0>();
      store<1, 0>();
      multiply<1>();
      store<0, 1>();
      take(0, group);
    }
    store<1, 1>();
    take(1, end - 1);
  }

 private:
  ATELIER_INLINE_MEMBER static void load_keys(const char* keys) {
    tile_load<6>(keys, 64);
    if constexpr (kDepth == 2) tile_load<7>(keys + kTileBytes, 64);
  }
  template <int half>
  ATELIER_INLINE_MEMBER static void multiply() {
    tile_zero<half>();
    tile_multiply<half, 2 + 2 * half, 6>();
    if constexpr (kDepth == 2) tile_multiply<half, 3 + 2 * half, 7>();
  }
  template <int half, int part>
  ATELIER_INLINE_MEMBER void store() const {
    tile_store<half>(s_ + half * kHalfScores + part * 256, 64);
  }

  const Layout& layout_;
  const char* q_;
  float* s_;
};

}  // namespace tiled
}  // namespace
}  // namespace atelier
