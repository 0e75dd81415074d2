// The matrix product behind the AMX linear layers and convolutions: blocks of 32 rows, which need
// not lie side by side, times panels of 32 packed columns, with bias, activation and residual
// applied to the fp32 sums of one block while the tiles work on the next.
//
// A number of fp32 is taken as the sum of three bf16, which hold its 24 bits, and a product as the
// six products of such parts that are not below fp32's own rounding. `Quantised` numbers lie in the
// tiles as 8-bit integers; their int32 sums are scaled where they are finished.
//
// Shapes: K depth in steps of 32. Packed weights [panel][K / 32][part][2] tiles of
// [16 pairs][16][2]; those of 8-bit integers [panel][K / 64][2] tiles of [16 fours][16][4].
#pragma once

#include <type_traits>

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
constexpr int64_t kGroupBytes = 1 << 20;  // of sums that wait for the next chunk

/// Parts of a number N, and which of them are multiplied: with one part that is all.
template <class N>
constexpr int kParts = 1;
template <>
constexpr int kParts<float> = 3;
template <class N>
constexpr int kProducts = 1;
template <>
constexpr int kProducts<float> = 6;
/// Numbers of one step of depth.
template <class N>
constexpr int64_t kStepDepth = kQuantised<N> ? kTileRowBytes : kTileWidth;
struct PartPair {
  int8_t a, b;
};
constexpr PartPair kPartPairs[6] = {{0, 0}, {1, 0}, {2, 0}, {0, 1}, {1, 1}, {0, 2}};
/// Bytes of a panel's tiles for one step of depth.
template <class N>
constexpr int64_t kStepBytes = 2 * kTileBytes * kParts<N>;

/// Bytes of a panel after which sums are put aside.
template <class N>
constexpr int64_t kChunkBytes = (kParts<N> == 1 ? 104 : 80) << 10;

/// 32 rows of A and where their results go.
struct RowBlock {
  const char* a;
  int64_t a_half;  // bytes from row 0 to row 16
  const float* bias;  // of the columns, or nullptr
  int64_t out[kBlockRows];  // elements from the output's start; negative where a row is padding
  float scales[kBlockRows];  // of the rows, where they are quantised
};

/// What is done with the sums.
template <class T>
struct Output {
  T* y;
  int64_t columns;  // per row of y
  bool accumulate;
  const float* scales = nullptr;  // of the outputs, where they are quantised
};

/// The depth of a product: where the tiles of each product lie in a row of A and in a panel.
struct Depth {
  int64_t a_stride;  // bytes from row to row
  int64_t steps;
  const int64_t* a;  // [windows][steps][kProducts]
  const int64_t* b;  // [steps][kProducts]
  const int32_t* windows = nullptr;  // by panel; nullptr: all are 0
};

/// The arrays of a Depth; panels may differ in where their steps lie in A: in their window.
template <class N>
class DepthSteps {
 public:
  static constexpr int64_t bytes(int64_t steps, int64_t windows = 1) {
    return steps * kProducts<N> * (windows + 1) * int64_t{sizeof(int64_t)};
  }
  DepthSteps(void* memory, int64_t steps)
      : steps_(steps), b_(static_cast<int64_t*>(memory)), a_(b_ + steps * kProducts<N>) {}
  /// Step `step` of a row begins at `at`, its parts `part_bytes` apart.
  void set(int64_t step, int64_t at, int64_t part_bytes, int64_t window = 0) {
    for (int64_t i = 0; i < kProducts<N>; ++i) {
      a_[(window * steps_ + step) * kProducts<N> + i] = at + kPartPairs[i].a * part_bytes;
      b_[step * kProducts<N> + i] = step * kStepBytes<N> + kPartPairs[i].b * 2 * kTileBytes;
    }
  }
  Depth depth(int64_t a_stride) const { return {a_stride, steps_, a_, b_}; }

 private:
  int64_t steps_;
  int64_t *b_, *a_;
};

template <CpuEpilogue epilogue, Precision kExact>
ATELIER_INLINE __m512 finished(__m512 x) {
  if constexpr (epilogue == CpuEpilogue::gelu) return gelu<kExact>(x);
  if constexpr (epilogue == CpuEpilogue::gelu_tanh) return gelu_tanh<kExact>(x);
  if constexpr (epilogue == CpuEpilogue::quick_gelu) return swish<kExact>(x, 1.702F);
  if constexpr (epilogue == CpuEpilogue::silu) return swish<kExact>(x, 1);
  return x;
}

/// The last steps of one block and panel: scales, bias, activation, residual, rounding.
template <CpuEpilogue epilogue, class N>
class Finish {
 public:
  using T = Stored<N>;
  static constexpr bool kGated = epilogue == CpuEpilogue::geglu;
  static constexpr int64_t kWidth = kGated ? 16 : 32;

  ATELIER_INLINE_MEMBER Finish(const RowBlock& block, const Output<T>& output, int64_t panel,
                               const char* sums)
      : out_(block.out), row_scales_(block.scales), sums_(sums), accumulate_(output.accumulate) {
    const int64_t column = panel * kWidth, left = output.columns - column;
    y_ = output.y + column;
    lanes_[0] = first_lanes(left);
    lanes_[1] = first_lanes(max64(0, left - 16));
    bias_[0] = bias_[1] = _mm512_setzero_ps();
    if constexpr (kQuantised<N>) load_columns(output.scales, column, output.columns, scales_);
    if (block.bias != nullptr) load_columns(block.bias, column, output.columns, bias_);
  }

  ATELIER_INLINE_MEMBER void write(int64_t begin, int64_t end) const {
    for (int64_t row = begin; row < end; ++row) {
      if (out_[row] < 0) continue;
      const char* at = sums_ + row / 16 * 2 * kTileBytes + row % 16 * 64;
      T* y = y_ + out_[row];
      __m512 a = biased(at, row, 0), b = biased(at + kTileBytes, row, 1);
      if constexpr (kGated) {
        a = _mm512_mul_ps(a, gelu<kPrecision<T>>(b));
        if (accumulate_) a = _mm512_add_ps(a, load(y, lanes_[0]));
        store(y, a, lanes_[0]);
      } else {
        a = finished<epilogue, kPrecision<T>>(a);
        b = finished<epilogue, kPrecision<T>>(b);
        if (accumulate_) {
          a = _mm512_add_ps(a, load(y, lanes_[0]));
          b = _mm512_add_ps(b, load(y + 16, lanes_[1]));
        }
        if constexpr (sizeof(T) == 4) {
          store(y, a, lanes_[0]);
          store(y + 16, b, lanes_[1]);
        } else {
          _mm512_mask_storeu_epi16(y, static_cast<__mmask32>(lanes_[0] | lanes_[1] << 16),
                                   (__m512i)_mm512_cvtne2ps_pbh(b, a));
        }
      }
    }
  }

 private:
  /// What `of` has for the columns of both tiles.
  ATELIER_INLINE_MEMBER void load_columns(const float* of, int64_t column, int64_t columns,
                                          __m512 (&both)[2]) const {
    both[0] = load(of + column, lanes_[0]);
    both[1] = kGated ? load(of + columns + column, lanes_[0]) : load(of + column + 16, lanes_[1]);
  }
  ATELIER_INLINE_MEMBER __m512 biased(const char* sums, int64_t row, int tile) const {
    if constexpr (kQuantised<N>) {
      const __m512 whole = _mm512_cvtepi32_ps(_mm512_load_si512(sums));
      return fma(mul(whole, splat(row_scales_[row])), scales_[tile], bias_[tile]);
    }
    return add(_mm512_load_ps(sums), bias_[tile]);
  }

  const int64_t* out_;
  const float* row_scales_;
  const char* sums_;
  T* y_;
  __m512 bias_[2], scales_[2];
  __mmask16 lanes_[2];
  bool accumulate_;
};

/// Multiplies blocks of rows with panels one after another. The sums of a product are written while
/// the tiles work on the next, so its RowBlock must outlive that.
template <CpuEpilogue epilogue, class N>
class PanelProducts {
 public:
  PanelProducts(const Depth& depth, const char* packed, const Output<Stored<N>>& output)
      : depth_(depth), packed_(packed), output_(output) {}

  int64_t steps() const { return depth_.steps; }
  const char* panel(int64_t panel) const { return packed_ + panel * depth_.steps * kStepBytes<N>; }

  /// Steps [begin, end) of one product; the last ones complete it. Between the first and the last,
  /// `sums` (kSumBytes) keeps what there is. `fetch` to `fetch_end` is brought into the second
  /// cache.
  ATELIER_INLINE_MEMBER void run(const RowBlock& block, int64_t panel_index, int64_t begin,
                                 int64_t end, char* sums, const char* fetch,
                                 const char* fetch_end) {
    const int64_t window = depth_.windows == nullptr ? 0 : depth_.windows[panel_index];
    const TileProduct product{.a = block.a,
                              .a_half = block.a_half,
                              .a_stride = depth_.a_stride,
                              .a_steps = depth_.a + (window * depth_.steps + begin) * kProducts<N>,
                              .b = panel(panel_index),
                              .b_steps = depth_.b + begin * kProducts<N>,
                              .steps = (end - begin) * kProducts<N>,
                              .sums = sums,
                              .add = begin > 0};
    const Waiting ready = waiting_;
    const int64_t lines = divide_up((fetch_end - fetch) / 64, max64(1, product.steps - 4));
    if (ready.block == nullptr) {
      pipeline_.run(product, [&](int64_t) {
        for (int64_t n = lines; n > 0 && fetch < fetch_end; --n, fetch += 64) {
          _mm_prefetch(fetch, _MM_HINT_T1);
        }
      });
      waiting_ = {end == depth_.steps ? &block : nullptr, panel_index, sums};
      return;
    }
    const Finish<epilogue, N> finish(*ready.block, output_, ready.panel, ready.sums);
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
      Finish<epilogue, N>(*waiting_.block, output_, waiting_.panel, waiting_.sums)
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
  Output<Stored<N>> output_;
  TilePipeline<kQuantised<N>> pipeline_;
  Waiting waiting_;
};

/// How panels are walked: depth is cut into chunks. Of rows too deep to be in the second cache as a
/// whole, a group of panels takes a chunk before any takes the next, so that only a chunk needs to
/// be there.
template <class N>
struct PanelWalk {
  int64_t chunks, group;
  bool deep;
  PanelWalk(int64_t steps, int64_t count, bool rows_are_deep)
      : chunks(divide_up(steps * kStepBytes<N>, kChunkBytes<N>)),
        group(1),
        deep(rows_are_deep && chunks > 1) {
    if (deep) group = max64(1, kGroupBytes / (count * kSumBytes));
  }
  /// Enough for `most` blocks or fewer.
  int64_t sum_bytes(int64_t most) const {
    if (chunks == 1) return kSumBytes;
    return max64(most * kSumBytes, deep ? kGroupBytes : 0);
  }
};

/// Panels [first, last) for `count` blocks of rows. `sums` has room for what `walk` says. Before
/// steps [begin, end) of the rows are read for the first time, `ready(begin, end)` is called.
template <CpuEpilogue epilogue, class N, class F>
void multiply_panels(PanelProducts<epilogue, N>& products, const PanelWalk<N>& walk,
                     const RowBlock* blocks, int64_t count, int64_t first, int64_t last, char* sums,
                     const F& ready) {
  const int64_t steps = products.steps();
  for (int64_t from = first; from < last; from += walk.group) {
    const int64_t to = min64(from + walk.group, last);
    for (int64_t chunk = 0; chunk < walk.chunks; ++chunk) {
      const int64_t begin = steps * chunk / walk.chunks, end = steps * (chunk + 1) / walk.chunks;
      if (from == first) ready(begin, end);
      for (int64_t panel = from; panel < to; ++panel) {
        // What comes next, about as long as what is at hand.
        const char* next = panel + 1 < to ? products.panel(panel + 1) + begin * kStepBytes<N>
                           : chunk + 1 < walk.chunks ? products.panel(from) + end * kStepBytes<N>
                                                     : products.panel(to);
        const bool more = panel + 1 < last || chunk + 1 < walk.chunks;
        const int64_t lines = more ? (end - begin) * kStepBytes<N> / 64 : 0;
        for (int64_t i = 0; i < count; ++i) {
          const int64_t place = walk.chunks > 1 ? (panel - from) * count + i : 0;
          products.run(blocks[i], panel, begin, end, sums + place * kSumBytes,
                       next + lines * i / count * 64, next + lines * (i + 1) / count * 64);
        }
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

/// 32 numbers as bf16 parts that add up to them: to 24 bits with three parts.
template <class T>
ATELIER_INLINE void split(__m512 low, __m512 high, __m512i (&parts)[kParts<T>]) {
  ATELIER_UNROLL for (int i = 0; i < kParts<T>; ++i) {
    parts[i] = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    if (i + 1 == kParts<T>) return;
    low = sub(low, widen16(_mm512_castsi512_si256(parts[i])));
    high = sub(high, widen16(_mm512_extracti64x4_epi64(parts[i], 1)));
  }
}
/// The same of the first `count` numbers at `p`; the rest is zero.
template <class T, class S>
ATELIER_INLINE void split(const S* p, int64_t count, __m512i (&parts)[kParts<T>]) {
  if constexpr (kParts<T> == 1 && std::is_same_v<S, Bf16>) {
    parts[0] = load_words(p, count);
    return;
  }
  split<T>(load(p, first_lanes(max64(0, count))),
           load(p + (count > 16 ? 16 : 0), first_lanes(max64(0, count - 16))), parts);
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
