// AMX tile registers: 8 of 16 rows x 64 bytes, all configured at full size. Instructions are
// written out because GCC 12's intrinsics do not tell the optimiser that they touch memory.
#pragma once

#include "device/cpu/x86/simd/vector.h"

namespace atelier {
namespace {

constexpr int kTileRows16 = 16;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTileWidth = 32;  // bf16 numbers in a row: the depth of one tile product
constexpr int64_t kTileRowBytes = 64;  // the same of 8-bit integers

/// Configures this thread's tiles for the scope and releases them at its end.
class TileScope {
 public:
  TileScope() {
    struct alignas(64) Config {
      uint8_t palette, start_row, reserved[14];
      uint16_t row_bytes[16];
      uint8_t rows[16];
    };
    Config config{};
    config.palette = 1;
    for (int i = 0; i < 8; ++i) {
      config.row_bytes[i] = 64;
      config.rows[i] = 16;
    }
    asm volatile("ldtilecfg %0" ::"m"(config) : "memory");
  }
  ~TileScope() { asm volatile("tilerelease" ::: "memory"); }
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

/// Rows of 64 bytes, `stride` bytes apart.
template <int tile>
ATELIER_INLINE void tile_load(const void* p, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(p), "r"(stride), "i"(tile) : "memory");
}
template <int tile>
ATELIER_INLINE void tile_store(void* p, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(p), "r"(stride), "i"(tile) : "memory");
}
template <int tile>
ATELIER_INLINE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(tile));
}
/// sum [16 rows][16] fp32 += a [16 rows][32] bf16 times b [16 pairs][16][2] bf16
template <int sum, int a, int b>
ATELIER_INLINE void tile_multiply() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
}

/// sum [16 rows][16] int32 += a [16 rows][64] int8 times b [16 fours][16][4] int8
template <int sum, int a, int b>
ATELIER_INLINE void tile_multiply_bytes() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
}

/// A product of 32 rows of A with 32 columns of B over `steps` tiles of depth.
struct TileProduct {
  const char* a;  // row 0; rows 16 to 31 lie a_half bytes further
  int64_t a_half, a_stride;  // bytes
  const int64_t* a_steps;  // where the tiles of each step lie, in bytes from `a`
  const char* b;
  const int64_t* b_steps;  // where the two tiles of each step lie, in bytes from `b`
  int64_t steps;
  char* sums;  // [2 halves of rows][2 tiles][16][16] fp32 or int32
  bool add;  // to what `sums` holds
};

/// Runs products one after another. Tile operations start in order, so storing a sum right after
/// its last product would stop the multiplier until that is through. Therefore the upper half of
/// each product ends two steps early and is stored after the last products of the lower half, which
/// itself is stored after the first of the next product. Nothing else may touch tiles between run()
/// and finish(). With `bytes`, numbers are 8-bit integers and sums int32.
template <bool bytes>
class TilePipeline {
 public:
  /// `between(share)` is called while products are under way, after the sums of the product before
  /// have been stored and before those of this one are; the shares add up to 32 or more.
  template <class F>
  ATELIER_INLINE_MEMBER void run(const TileProduct& p, const F& between) {
    const int64_t edge = p.steps < 2 * kEdge ? p.steps : kEdge;
    begin_half<0>(p);
    for (int64_t k = 0; k < edge; ++k) multiply_half<0>(p, k);
    finish();
    begin_half<1>(p);
    if (p.steps < 2 * kEdge) {
      for (int64_t k = 0; k < edge; ++k) multiply_half<1>(p, k);
      between(32);
    } else {
      for (int64_t k = 0; k < kEdge; ++k) multiply_half<1>(p, k);
      const int64_t whole = p.steps - 2 * kEdge;
      if (whole == 0) between(32);
      const int64_t share = whole > 32 ? 1 : whole == 0 ? 0 : divide_up(32, whole);
      for (int64_t k = 0; k < whole; ++k) {
        multiply(p, k + kEdge);
        between(share);
      }
      multiply_half<0>(p, p.steps - 2);
      multiply_half<0>(p, p.steps - 1);
      multiply_half<1>(p, p.steps - 2);
      multiply_half<1>(p, p.steps - 1);
    }
    store_half<0>(p.sums);
    pending_ = p.sums;
  }
  /// Stores what the last product left in tiles.
  ATELIER_INLINE_MEMBER void finish() {
    if (pending_ != nullptr) store_half<1>(pending_);
    pending_ = nullptr;
  }

 private:
  static constexpr int64_t kEdge = 2;  // steps in which the halves are out of step

  template <int sum, int a, int b>
  ATELIER_INLINE_MEMBER static void multiply_tiles() {
    if constexpr (bytes) {
      tile_multiply_bytes<sum, a, b>();
    } else {
      tile_multiply<sum, a, b>();
    }
  }
  template <int half>
  ATELIER_INLINE_MEMBER static void begin_half(const TileProduct& p) {
    if (p.add) {
      tile_load<2 * half>(p.sums + 2 * half * kTileBytes, 64);
      tile_load<2 * half + 1>(p.sums + (2 * half + 1) * kTileBytes, 64);
    } else {
      tile_zero<2 * half>();
      tile_zero<2 * half + 1>();
    }
  }
  ATELIER_INLINE_MEMBER static void multiply(const TileProduct& p, int64_t k) {
    const char* a = p.a + p.a_steps[k];
    const char* b = p.b + p.b_steps[k];
    tile_load<6>(b, 64);
    tile_load<7>(b + kTileBytes, 64);
    tile_load<4>(a, p.a_stride);
    multiply_tiles<0, 4, 6>();
    multiply_tiles<1, 4, 7>();
    tile_load<5>(a + p.a_half, p.a_stride);
    multiply_tiles<2, 5, 6>();
    multiply_tiles<3, 5, 7>();
  }
  template <int half>
  ATELIER_INLINE_MEMBER static void multiply_half(const TileProduct& p, int64_t k) {
    const char* b = p.b + p.b_steps[k];
    tile_load<4 + half>(p.a + p.a_steps[k] + half * p.a_half, p.a_stride);
    tile_load<6>(b, 64);
    tile_load<7>(b + kTileBytes, 64);
    multiply_tiles<2 * half, 4 + half, 6>();
    multiply_tiles<2 * half + 1, 4 + half, 7>();
  }
  template <int half>
  ATELIER_INLINE_MEMBER static void store_half(char* sums) {
    tile_store<2 * half>(sums + 2 * half * kTileBytes, 64);
    tile_store<2 * half + 1>(sums + (2 * half + 1) * kTileBytes, 64);
  }

  char* pending_ = nullptr;
};

}  // namespace
}  // namespace atelier
