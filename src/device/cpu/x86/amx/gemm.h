// The matrix product behind the AMX linear layers and convolutions: blocks of 32 rows, which need
// not lie side by side, times panels of 32 packed columns, with bias, activation and residual
// applied to the fp32 sums of one block while the tiles work on the next.
//
// Shapes: K depth in steps of 32. Packed weights [panel][K / 32][2] tiles of [16 pairs][16][2].
#pragma once

#include "device/cpu/linear.h"
#include "device/cpu/parallel.h"
#include "device/cpu/scratch.h"
#include "device/cpu/x86/amx/tiles.h"
#include "device/cpu/x86/simd/columns.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int kBlockRows = 32;
constexpr int kPanelColumns = 32;
constexpr int64_t kSumBytes = int64_t{kBlockRows} * kPanelColumns * 4;
constexpr int64_t kChunkSteps = 40;  // depth after which sums are put aside: a panel's 80 KiB

/// 32 rows of A and where their results go.
struct RowBlock {
  const char* a;
  int64_t a_half;  // bytes from row 0 to row 16
  const float* bias;  // of the columns, or nullptr
  int64_t out[kBlockRows];  // elements from the output's start; negative where a row is padding
};

/// What is done with the sums.
struct Output {
  Bf16* y;
  int64_t columns;  // per row of y
  bool accumulate;
};

/// The depth of a product: where the steps of a row of A lie.
struct Depth {
  int64_t a_stride;  // bytes from row to row
  const int64_t* a_steps;
  int64_t steps;
};

template <CpuEpilogue epilogue>
ATELIER_INLINE __m512 finished(__m512 x) {
  constexpr Precision kExact = Precision::bf16;
  if constexpr (epilogue == CpuEpilogue::gelu) return gelu<kExact>(x);
  if constexpr (epilogue == CpuEpilogue::gelu_tanh) return gelu_tanh<kExact>(x);
  if constexpr (epilogue == CpuEpilogue::quick_gelu) return swish<kExact>(x, 1.702F);
  if constexpr (epilogue == CpuEpilogue::silu) return swish<kExact>(x, 1);
  return x;
}

/// The last steps of one block and panel: bias, activation, residual, rounding.
template <CpuEpilogue epilogue>
class Finish {
 public:
  static constexpr bool kGated = epilogue == CpuEpilogue::geglu;
  static constexpr int64_t kWidth = kGated ? 16 : 32;

  ATELIER_INLINE_MEMBER Finish(const RowBlock& block, const Output& output, int64_t panel,
                               const char* sums)
      : out_(block.out), sums_(sums), accumulate_(output.accumulate) {
    const int64_t column = panel * kWidth, left = output.columns - column;
    y_ = output.y + column;
    lanes_[0] = first_lanes(left);
    lanes_[1] = first_lanes(max64(0, left - 16));
    bias_[0] = bias_[1] = _mm512_setzero_ps();
    if (block.bias == nullptr) return;
    bias_[0] = load(block.bias + column, lanes_[0]);
    bias_[1] = kGated ? load(block.bias + output.columns + column, lanes_[0])
                      : load(block.bias + column + 16, lanes_[1]);
  }

  ATELIER_INLINE_MEMBER void write(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      if (out_[row] < 0) continue;
      const char* at = sums_ + row / 16 * 2 * kTileBytes + row % 16 * 64;
      Bf16* y = y_ + out_[row];
      __m512 a = _mm512_add_ps(_mm512_load_ps(at), bias_[0]);
      __m512 b = _mm512_add_ps(_mm512_load_ps(at + kTileBytes), bias_[1]);
      if constexpr (kGated) {
        a = _mm512_mul_ps(a, gelu<Precision::bf16>(b));
        if (accumulate_) a = _mm512_add_ps(a, load(y, lanes_[0]));
        store(y, a, lanes_[0]);
      } else {
        a = finished<epilogue>(a);
        b = finished<epilogue>(b);
        if (accumulate_) {
          a = _mm512_add_ps(a, load(y, lanes_[0]));
          b = _mm512_add_ps(b, load(y + 16, lanes_[1]));
        }
        _mm512_mask_storeu_epi16(y, static_cast<__mmask32>(lanes_[0] | lanes_[1] << 16),
                                 (__m512i)_mm512_cvtne2ps_pbh(b, a));
      }
    }
  }

 private:
  const int64_t* out_;
  const char* sums_;
  Bf16* y_;
  __m512 bias_[2];
  __mmask16 lanes_[2];
  bool accumulate_;
};

/// Multiplies blocks of rows with panels one after another. The sums of a product are written while
/// the tiles work on the next, so its RowBlock must outlive that.
template <CpuEpilogue epilogue>
class PanelProducts {
 public:
  PanelProducts(const Depth& depth, const char* packed, const Output& output)
      : depth_(depth), packed_(packed), output_(output) {}

  const char* panel(int64_t panel) const { return packed_ + panel * depth_.steps * 2 * kTileBytes; }

  /// Steps [begin, end) of one product; the last ones complete it. Between the first and the last,
  /// `sums` (kSumBytes) keeps what there is. `fetch` to `fetch_end` is brought into the second
  /// cache.
  ATELIER_INLINE_MEMBER void run(const RowBlock& block, int64_t panel_index, int64_t begin,
                                 int64_t end, char* sums, const char* fetch,
                                 const char* fetch_end) {
    const TileProduct product{.a = block.a,
                              .a_half = block.a_half,
                              .a_stride = depth_.a_stride,
                              .a_steps = depth_.a_steps + begin,
                              .b = panel(panel_index) + begin * 2 * kTileBytes,
                              .steps = end - begin,
                              .sums = sums,
                              .add = begin > 0};
    const Waiting ready = waiting_;
    const int64_t lines = divide_up((fetch_end - fetch) / 64, max64(1, end - begin - 4));
    if (ready.block == nullptr) {
      pipeline_.run(product, [&](int64_t) {
        for (int64_t n = lines; n > 0 && fetch < fetch_end; --n, fetch += 64) {
          _mm_prefetch(fetch, _MM_HINT_T1);
        }
      });
      waiting_ = {end == depth_.steps ? &block : nullptr, panel_index, sums};
      return;
    }
    const Finish<epilogue> finish(*ready.block, output_, ready.panel, ready.sums);
    int64_t row = 0;
    pipeline_.run(product, [&](int64_t share) {
      for (int64_t n = lines; n > 0 && fetch < fetch_end; --n, fetch += 64) {
        _mm_prefetch(fetch, _MM_HINT_T1);
      }
      const int64_t rows_end = min64(row + share, kBlockRows);
      finish.write(row, rows_end);
      row = rows_end;
    });
    waiting_ = {end == depth_.steps ? &block : nullptr, panel_index, sums};
  }
  void finish() {
    pipeline_.finish();
    if (waiting_.block != nullptr) {
      Finish<epilogue>(*waiting_.block, output_, waiting_.panel, waiting_.sums)
          .write(0, kBlockRows);
    }
    waiting_.block = nullptr;
  }

 private:
  struct Waiting {
    const RowBlock* block = nullptr;
    int64_t panel = 0;
    const char* sums = nullptr;
  };

  Depth depth_;
  const char* packed_;
  Output output_;
  TilePipeline pipeline_;
  Waiting waiting_;
};

/// Panels [first, last) for `count` blocks of rows that stay in the second cache, panel by panel.
/// `sums` has room for count * kSumBytes.
template <CpuEpilogue epilogue>
void multiply_panels(PanelProducts<epilogue>& products, const RowBlock* blocks, int64_t count,
                     int64_t steps, int64_t first, int64_t last, char* sums) {
  const int64_t chunks = divide_up(steps, kChunkSteps);
  for (int64_t panel = first; panel < last; ++panel) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t begin = steps * chunk / chunks, end = steps * (chunk + 1) / chunks;
      const char* next = products.panel(panel) + end * 2 * kTileBytes;
      const bool more = panel + 1 < last || chunk + 1 < chunks;
      const int64_t lines = more ? (end - begin) * 2 * kTileBytes / 64 : 0;
      for (int64_t i = 0; i < count; ++i) {
        products.run(blocks[i], panel, begin, end, sums + (chunks > 1 ? i * kSumBytes : 0),
                     next + lines * i / count * 64, next + lines * (i + 1) / count * 64);
      }
    }
  }
  products.finish();
}

/// Sixteen outputs' weights of one step as a tile: rows of 32 numbers -> [16 pairs][16][2].
ATELIER_INLINE void store_tile(__m512i (&rows)[16], char* tile) {
  transpose(rows);
  for (int i = 0; i < 16; ++i) _mm512_store_si512(tile + i * 64, rows[i]);
}

/// 32 numbers rounded to bf16; the first `count` are read, the rest is zero.
template <class S>
ATELIER_INLINE __m512i load_bf16(const S* p, int64_t count) {
  const __m512 low = load(p, first_lanes(max64(0, count)));
  const __m512 high = load(p + (count > 16 ? 16 : 0), first_lanes(max64(0, count - 16)));
  return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
