// AMX tile registers: 8 of 16 rows x 64 bytes, all configured at full size. Instructions are
// written out because GCC 12's intrinsics do not tell the optimiser that they touch memory.
#pragma once

#include "device/cpu/x86/avx512/vector.h"

namespace atelier {
namespace {

constexpr int kTileRows16 = 16;
constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTileWidth = 32;  // bf16 numbers in a row: the depth of one tile product

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

/// A product of 32 rows of A with 32 columns of B over `steps` tiles of depth.
struct TileProduct {
  const char* a;  // row 0; rows 16 to 31 lie a_half bytes further
  int64_t a_half, a_stride;  // bytes
  const int64_t* a_steps;  // where the tiles of each step lie, in bytes from `a`
  const char* b;  // two tiles for the columns, b_half bytes apart; step k lies k * b_step further
  int64_t b_half, b_step;
  int64_t steps;
};

/// Runs products one after another, each into 32 x 32 fp32 sums. Tile operations start in order, so
/// storing a sum right after its last product would stop the multiplier until that is through.
/// Therefore the upper half of each product ends two steps early and is stored among the last
/// products of the lower half, which itself is stored among the first of the next product.
/// Between start() and finish() no other tile operation may touch tiles 2 and 3.
class TilePipeline {
 public:
  /// sum(half) gives where the 16 x 32 sums of rows 16 * half and up lie, as two tiles
  /// `tile_gap` bytes apart with rows `stride` bytes apart.
  struct Sums {
    char* upper;
    char* lower;
    int64_t tile_gap, stride;
    bool add;  // to what is there
  };

  ATELIER_INLINE_MEMBER void run(const TileProduct& p, const Sums& sums) {
    constexpr int64_t kEdge = 2;  // steps in which the halves are out of step
    begin_half<0>(sums.upper, sums);
    if (p.steps < 2 * kEdge) {
      for (int64_t k = 0; k < p.steps; ++k) multiply_half<0>(p, k);
      flush();
      begin_half<1>(sums.lower, sums);
      for (int64_t k = 0; k < p.steps; ++k) multiply_half<1>(p, k);
      store_half<0>(sums.upper, sums);
    } else {
      for (int64_t k = 0; k < kEdge; ++k) multiply_half<0>(p, k);
      flush();
      begin_half<1>(sums.lower, sums);
      for (int64_t k = 0; k < kEdge; ++k) multiply_half<1>(p, k);
      for (int64_t k = kEdge; k < p.steps - kEdge; ++k) {
        const char* a = p.a + p.a_steps[k];
        const char* b = p.b + k * p.b_step;
        tile_load<6>(b, 64);
        tile_load<7>(b + p.b_half, 64);
        tile_load<4>(a, p.a_stride);
        tile_multiply<0, 4, 6>();
        tile_multiply<1, 4, 7>();
        tile_load<5>(a + p.a_half, p.a_stride);
        tile_multiply<2, 5, 6>();
        tile_multiply<3, 5, 7>();
      }
      multiply_half<0>(p, p.steps - 2);
      multiply_half<0>(p, p.steps - 1);
      multiply_half<1>(p, p.steps - 2);
      multiply_half<1>(p, p.steps - 1);
      store_half<0>(sums.upper, sums);
    }
    pending_ = sums;
  }
  /// Stores what the last product left in tiles.
  ATELIER_INLINE_MEMBER void flush() {
    if (pending_.lower != nullptr) store_half<1>(pending_.lower, pending_);
    pending_.lower = nullptr;
  }

 private:
  template <int half>
  ATELIER_INLINE_MEMBER static void begin_half(const char* at, const Sums& sums) {
    if (sums.add) {
      tile_load<2 * half>(at, sums.stride);
      tile_load<2 * half + 1>(at + sums.tile_gap, sums.stride);
    } else {
      tile_zero<2 * half>();
      tile_zero<2 * half + 1>();
    }
  }
  template <int half>
  ATELIER_INLINE_MEMBER static void multiply_half(const TileProduct& p, int64_t k) {
    const char* b = p.b + k * p.b_step;
    tile_load<4 + half>(p.a + p.a_steps[k] + half * p.a_half, p.a_stride);
    tile_load<6>(b, 64);
    tile_load<7>(b + p.b_half, 64);
    tile_multiply<2 * half, 4 + half, 6>();
    tile_multiply<2 * half + 1, 4 + half, 7>();
  }
  template <int half>
  ATELIER_INLINE_MEMBER static void store_half(char* at, const Sums& sums) {
    tile_store<2 * half>(at, sums.stride);
    tile_store<2 * half + 1>(at + sums.tile_gap, sums.stride);
  }

  Sums pending_{};
};

}  // namespace
}  // namespace atelier
