// Attention on AMX tiles: bf16 products with fp32 sums, 32 queries of a head at a time.
//
// No maximum is subtracted where the norms of queries and keys keep the scores well inside the
// range of bf16. Else it is lazy as in the AVX-512 kernel: a reference taken from the first keys
// and raised only if a score exceeds it by 2^64. Where the norms would allow a score that fits no
// integer, and under a mask, each block of keys has its exact maximum taken first.
#pragma once

#include <string.h>

#include "device/cpu/parallel.h"
#include "device/cpu/scratch.h"
#include "device/cpu/x86/amx/attention_exp.h"
#include "device/cpu/x86/amx/attention_scores.h"

namespace atelier {
namespace {
namespace tiled {

/// One head and 32 queries.
class QueryBlock {
 public:
  QueryBlock() = default;
  QueryBlock(const Layout& layout, const Work& work, const QueryMemory& memory,
             const Exponential& exponential, const Mask& mask, const char* packed)
      : layout_(&layout),
        work_(work),
        memory_(memory),
        exponential_(&exponential),
        mask_(mask),
        packed_(packed) {}

  /// Loads `count` queries; `scale` makes steps of scores.
  void begin(const Bf16* q, int64_t stride, int64_t count, float scale);
  /// Takes groups [begin, end) of the keys into the sums. Blocks come in order, from 0 on.
  void take(int64_t begin, int64_t end) const;
  void store_outputs(int64_t count, Bf16* out, int64_t stride) const;

 private:
  template <class F>
  ATELIER_INLINE_MEMBER void scores(int64_t begin, int64_t end, const F& take) const;
  void take_maximum(int64_t begin, int64_t end) const;
  void raise(const __m512 (&highest)[2]) const;
  void small_probabilities(int64_t begin, int64_t end) const;
  int general_probabilities(int64_t begin, int64_t end) const;
  void accumulate(int64_t begin, int64_t end) const;
  template <int kColumns>
  void accumulate_columns(int64_t begin, int64_t end, int64_t f) const;
  bool masked(int64_t group) const { return mask_.any() || layout_->partial(group); }
  char* probabilities(int64_t half, int64_t group) const {
    return work_.p + (group * 2 + half) * kTileBytes;
  }

  const Layout* layout_ = nullptr;
  Work work_;
  QueryMemory memory_;
  const Exponential* exponential_ = nullptr;
  Mask mask_;
  const char* packed_ = nullptr;
  bool exact_ = false;  // each block's maximum is taken first
  bool small_ = false;  // no maximum is needed
  bool endless_ = false;  // queries or keys have numbers that are not finite, or nearly so
};

template <class F>
ATELIER_INLINE_MEMBER void QueryBlock::scores(int64_t begin, int64_t end, const F& take) const {
  if (layout_->depth() == 1) {
    ResidentScores<1>(*layout_, memory_.q, work_.s).run(packed_, begin, end, take);
  } else if (layout_->depth() == 2) {
    ResidentScores<2>(*layout_, memory_.q, work_.s).run(packed_, begin, end, take);
  } else {
    StreamedScores(*layout_, memory_.q, work_.s).run(packed_, begin, end, take);
  }
}

// The references become at least the highest score of groups `begin` to `end`.
inline void QueryBlock::take_maximum(int64_t begin, int64_t end) const {
  __m512 highest[2] = {splat(kNothing), splat(kNothing)};
  scores(begin, end, [&](int64_t half, int64_t group) {
    const float* s = work_.s + half * kHalfScores;
    const int64_t key = group * kKeys;
    highest[half] = masked(group) ? exponential_->maximum<true>(s, mask_, half * 16, key,
                                                                layout_->keys(), highest[half])
                                  : exponential_->maximum<false>(s, mask_, half * 16, key,
                                                                 layout_->keys(), highest[half]);
  });
  raise(highest);
}

// Raises the references and scales what was summed up so far accordingly.
inline void QueryBlock::raise(const __m512 (&highest)[2]) const {
  for (int64_t row = 0; row < kQueries; ++row) {
    const float before = memory_.reference[row], now = highest[row / 16][row % 16];
    if (!(now > before)) continue;
    const __m512 factor = splat(__builtin_exp2f((before - now) / kSteps));
    memory_.reference[row] = now;
    memory_.offset[row] = kOne - now;
    for (int64_t f = 0; f < layout_->width(); ++f) {
      float* o = memory_.o + (f * kQueries + row) * 16;
      _mm512_store_ps(o, _mm512_mul_ps(_mm512_load_ps(o), factor));
    }
  }
}

inline void QueryBlock::small_probabilities(int64_t begin, int64_t end) const {
  scores(begin, end, [&](int64_t half, int64_t group) {
    exponential_->small(work_.s + half * kHalfScores, probabilities(half, group - begin));
  });
}

// Returns the highest step of any probability.
inline int QueryBlock::general_probabilities(int64_t begin, int64_t end) const {
  __m512i highest = _mm512_setzero_si512();
  scores(begin, end, [&](int64_t half, int64_t group) {
    const float* s = work_.s + half * kHalfScores;
    char* p = probabilities(half, group - begin);
    const int64_t key = group * kKeys;
    if (masked(group)) {
      exponential_->general<true>(s, memory_.offset, mask_, half * 16, key, layout_->keys(), p,
                                  highest);
    } else {
      exponential_->general<false>(s, memory_.offset, mask_, half * 16, key, layout_->keys(), p,
                                   highest);
    }
  });
  return _mm512_reduce_max_epi32(highest);
}

// Columns f to f + kColumns of o += p v.
template <int kColumns>
void QueryBlock::accumulate_columns(int64_t begin, int64_t end, int64_t f) const {
  constexpr int64_t kColumn = 2 * 256;  // numbers of o
  float* o = memory_.o + f * kColumn;
  const auto each_sum = [&](const auto& body) {
    body.template operator()<0>(o);
    if constexpr (kColumns > 1) body.template operator()<1>(o + kColumn);
    if constexpr (kColumns > 2) body.template operator()<2>(o + 2 * kColumn);
    body.template operator()<3>(o + 256);
    if constexpr (kColumns > 1) body.template operator()<4>(o + kColumn + 256);
    if constexpr (kColumns > 2) body.template operator()<5>(o + 2 * kColumn + 256);
  };
  each_sum([]<int tile>(const float* at) { tile_load<tile>(at, 64); });
  for (int64_t group = begin; group < end; ++group) {
    const char* p = probabilities(0, group - begin);
    const char* v = layout_->values_of(packed_, group) + f * kTileBytes;
    tile_load<6>(p, 64);
    tile_load<7>(v, 64);
    tile_multiply<0, 6, 7>();
    if constexpr (kColumns > 1) {
      tile_load<7>(v + kTileBytes, 64);
      tile_multiply<1, 6, 7>();
    }
    if constexpr (kColumns > 2) {
      tile_load<7>(v + 2 * kTileBytes, 64);
      tile_multiply<2, 6, 7>();
    }
    tile_load<6>(p + kTileBytes, 64);
    if constexpr (kColumns > 2) tile_multiply<5, 6, 7>();
    if constexpr (kColumns > 1) {
      if constexpr (kColumns > 2) tile_load<7>(v + kTileBytes, 64);
      tile_multiply<4, 6, 7>();
      tile_load<7>(v, 64);
    }
    tile_multiply<3, 6, 7>();
  }
  each_sum([]<int tile>(float* at) { tile_store<tile>(at, 64); });
}

inline void QueryBlock::accumulate(int64_t begin, int64_t end) const {
  int64_t f = 0;
  for (; f + 3 <= layout_->width(); f += 3) accumulate_columns<3>(begin, end, f);
  if (layout_->width() - f == 2) accumulate_columns<2>(begin, end, f);
  if (layout_->width() - f == 1) accumulate_columns<1>(begin, end, f);
}

// Without references there is nothing to raise.
inline void QueryBlock::begin(const Bf16* q, int64_t stride, int64_t count, float scale) {
  const float norm = load_queries(*layout_, q, stride, count, memory_.q);
  const float bound = norm * largest_key(*layout_, packed_) * scale;
  endless_ = !(bound < __builtin_inff());
  exact_ = mask_.any() || !(bound < kSafeScore);
  small_ = !mask_.any() && bound < kSmallScore;
  for (int i = 0; i < kQueries; ++i) {
    memory_.reference[i] = kNothing;
    memory_.offset[i] = 0;
  }
  memset(memory_.o, 0, static_cast<size_t>(2 * layout_->width() * kTileBytes));
}

inline void QueryBlock::take(int64_t begin, int64_t end) const {
  const int64_t last_visible = mask_.causal ? mask_.first_query + kQueries : layout_->keys();
  end = min64(end, divide_up(last_visible, kKeys));
  if (begin >= end) return;
  if (small_) {
    small_probabilities(begin, end);
  } else {
    if (exact_) take_maximum(begin, end);
    if (!exact_ && begin == 0) take_maximum(0, 1);
    if (general_probabilities(begin, end) > kLimit) {
      take_maximum(begin, end);
      general_probabilities(begin, end);
    }
  }
  accumulate(begin, end);
}

// Integers cannot stand for scores that are not finite: then no output of the block is a number.
inline void QueryBlock::store_outputs(int64_t count, Bf16* out, int64_t stride) const {
  const int64_t size = layout_->size();
  for (int64_t row = 0; row < count; ++row) {
    const float sum = memory_.o[((layout_->width() - 1) * kQueries + row) * 16 + size % 16];
    const float share = sum == 0 ? 0 : 1 / sum;
    const __m512 inverse = splat(endless_ ? __builtin_nanf("") : share);
    for (int64_t d = 0; d < size; d += 16) {
      const __m512 numbers = _mm512_load_ps(memory_.o + (d / 16 * kQueries + row) * 16);
      store(out + row * stride + d, _mm512_mul_ps(numbers, inverse), first_lanes(size - d));
    }
  }
}

/// Where head `plane` (counted through the batch) of a view has row `row`.
inline Bf16* head_at(const CpuHeads& view, const CpuAttention& s, int64_t plane, int64_t row) {
  return static_cast<Bf16*>(view.data) + plane / s.heads * view.batch_stride +
         plane % s.heads * view.head_stride + row * view.row_stride;
}

int64_t packed_kv_bytes(const CpuAttention& s) {
  return s.batch * s.heads * Layout(s.head_size, s.keys).packed_bytes();
}

void pack_kv(const CpuAttention& s, const CpuHeads& k, const CpuHeads& v, void* packed,
             const Parallel& parallel) {
  const Layout layout(s.head_size, s.keys);
  parallel_for(parallel, s.batch * s.heads * layout.groups(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / layout.groups(), group = i % layout.groups();
      char* head = static_cast<char*>(packed) + plane * layout.packed_bytes();
      pack_keys(layout, head_at(k, s, plane, 0), k.row_stride, group, head);
      pack_values(layout, head_at(v, s, plane, 0), v.row_stride, group, head);
    }
  });
}

/// Query blocks that are worked on together, so that each block of keys and values is read from far
/// away only once for all; fewer where that would leave threads idle.
inline int64_t shared_blocks(const CpuAttention& s, int threads) {
  constexpr int64_t kTasksPerThread = 4;
  const int64_t blocks = s.batch * s.heads * divide_up(s.queries, kQueries);
  return max64(1, min64(kQueryBlocks, blocks / (threads * kTasksPerThread)));
}

/// Attention of up to `shared` blocks of queries of one head, from query `first` on.
inline void attend_blocks(const CpuAttention& s, const Layout& layout, const CpuHeads& q,
                          const char* head, const CpuMask& mask, const CpuHeads& out, int64_t plane,
                          int64_t first, int64_t shared, const Exponential& exponential,
                          char* memory) {
  const float scale = s.scale * kLog2E * kSteps;
  const Work work(memory);
  const int64_t blocks = min64(shared, divide_up(s.queries - first, kQueries));
  const auto block_at = [&](int64_t i) {
    const int64_t query = first + i * kQueries;
    Mask rows{nullptr, mask.query_stride, s.causal, query, min64(kQueries, s.queries - query) - 1};
    if (mask.data != nullptr) {
      rows.data = mask.data + plane / s.heads * mask.batch_stride +
                  plane % s.heads * mask.head_stride + query * mask.query_stride;
    }
    char* own = memory + Work::kBytes + i * QueryMemory::bytes(layout);
    return QueryBlock(layout, work, QueryMemory(layout, own), exponential, rows, head);
  };
  QueryBlock block[kQueryBlocks];
  for (int64_t i = 0; i < blocks; ++i) block[i] = block_at(i);
  const auto count = [&](int64_t i) { return min64(kQueries, s.queries - first - i * kQueries); };
  for (int64_t i = 0; i < blocks; ++i) {
    block[i].begin(head_at(q, s, plane, first + i * kQueries), q.row_stride, count(i), scale);
  }
  for (int64_t group = 0; group < layout.groups(); group += layout.block_groups()) {
    const int64_t end = min64(group + layout.block_groups(), layout.groups());
    for (int64_t i = 0; i < blocks; ++i) block[i].take(group, end);
  }
  for (int64_t i = 0; i < blocks; ++i) {
    block[i].store_outputs(count(i), head_at(out, s, plane, first + i * kQueries), out.row_stride);
  }
}

void attend(const CpuAttention& s, const CpuHeads& q, const void* packed, const CpuMask& mask,
            const CpuHeads& out, const Parallel& parallel) {
  const Layout layout(s.head_size, s.keys);
  const int64_t shared = shared_blocks(s, parallel.threads());
  const int64_t tasks = divide_up(s.queries, kQueries * shared);
  parallel_for(parallel, s.batch * s.heads * tasks, [&](int64_t begin, int64_t end) {
    const TileScope tiles;
    const Mantissas mantissas;
    const Exponential exponential(mantissas, s.scale * kLog2E * kSteps);
    const Scratch scratch(Work::kBytes + shared * QueryMemory::bytes(layout));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t plane = i / tasks;
      const char* head = static_cast<const char*>(packed) + plane * layout.packed_bytes();
      attend_blocks(s, layout, q, head, mask, out, plane, i % tasks * kQueries * shared, shared,
                    exponential, static_cast<char*>(scratch.data()));
    }
  });
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
