// Attention with the scores kept in registers, transposed: a register holds one key against as many
// queries as it has lanes. Maximum and sum over the keys are then plain vector operations, no head
// size is padded to a tile, and only the probabilities go through memory.
//
// The subtracted maximum is lazy: a reference taken from the first keys serves as long as no score
// exceeds it by kLazy, since bf16 and fp32 both have room for probabilities up to 2^kLazy. A block
// of keys that goes beyond is redone with a new reference.
//
// Packed keys and values, per head: keys [M'][words], then values [M'/kPerWord][D] words; M' is M
// rounded up to whole key blocks, the rows past M are zero. A word is 32 bits: one fp32 number or,
// with native bf16 products, two bf16 (consecutive d for keys, consecutive keys for values).
#pragma once

#include "device/cpu/attention.h"
#include "device/cpu/parallel.h"
#include "device/cpu/scratch.h"
#include "device/cpu/x86/simd/vector.h"

namespace atelier {
namespace {

constexpr int kColumns = kLanes == 16 ? 4 : 2;  // registers of queries
constexpr int kQueryBlock = kLanes * kColumns;
constexpr int kRows = 6;  // keys per score tile: kRows * kColumns accumulators
constexpr float kLazy = 64;  // in powers of two
constexpr float kHidden = -1e30F;  // a score no key can reach

template <class T>
constexpr int kKeyBlock = kPerWord<T> == 2 ? 192 : 48;  // probabilities of a block stay in L1

/// The mask of one head: fp32 rows, and how far row i may look.
struct HeadMask {
  const float* data;
  int64_t query_stride;
  bool causal;
  bool any() const { return data != nullptr || causal; }
};

/// Attention of one head. kSize is the head size, or 0 for one known only at run time.
template <class T, int kSize>
class HeadAttention {
 public:
  static constexpr int kWord = kPerWord<T>;
  static constexpr int kKeys = kKeyBlock<T>;
  static constexpr int kTile = kSize % 5 == 0 && kSize > 0 ? 5 : 4;  // rows of O per register tile

  HeadAttention(int64_t head_size, float scale) : size_(head_size), scale_(scale * kLog2E) {}

  int64_t size() const { return kSize == 0 ? size_ : kSize; }
  int64_t words() const { return divide_up(size(), kWord); }
  int64_t packed_keys(int64_t keys) const { return round_up(keys, kKeys); }
  /// Words of packed keys; values take packed_keys / kWord * size.
  int64_t key_words(int64_t keys) const { return packed_keys(keys) * words(); }
  int64_t value_words(int64_t keys) const { return packed_keys(keys) / kWord * size(); }
  int64_t work_bytes() const {
    return (words() * kColumns + kKeys / kWord * kColumns + size() * kColumns + kKeys * kColumns) *
           int64_t{sizeof(Vec)};
  }

  void pack(const T* k, int64_t k_stride, const T* v, int64_t v_stride, int64_t keys, int64_t begin,
            uint32_t* packed) const;
  void attend(const T* q, int64_t q_stride, int64_t first, int64_t count, const uint32_t* packed,
              int64_t keys, const HeadMask& mask, T* out, int64_t out_stride, void* work) const;

 private:
  struct Work {
    Words *q, *p;
    Vec *o, *bias;
  };
  struct State {
    Vec reference[kColumns], sum[kColumns];
  };

  Work lay_out(void* memory) const {
    Words* q = static_cast<Words*>(memory);
    Words* p = q + words() * kColumns;
    Vec* o = reinterpret_cast<Vec*>(p + kKeys / kWord * kColumns);
    return {q, p, o, o + size() * kColumns};
  }
  void load_queries(const T* q, int64_t stride, int64_t count, Words* out) const;
  void store_outputs(const Work& work, const State& state, int64_t count, T* out,
                     int64_t stride) const;
  void fill_bias(const HeadMask& mask, int64_t first_query, int64_t count, int64_t first_key,
                 int64_t keys, Vec* bias) const;
  ATELIER_INLINE void score(const uint32_t* k, int64_t words, const Words* q,
                            Vec (&s)[kRows][kColumns]);
  template <bool kBiased, bool kPartial>
  ATELIER_INLINE_MEMBER void tile(const uint32_t* k, int64_t present, const Work& work,
                                  const Vec* bias, const State& state, State& highest_and_sum,
                                  Words* p) const;
  template <bool kBiased>
  void probabilities(const uint32_t* k, int64_t keys, const Work& work, const State& state,
                     State& next) const;
  template <int kDepth>
  static void accumulate(const uint32_t* v, int64_t stride, const Words* p, int64_t steps, Vec* o);
  void rescale(const State& highest, State& state, Vec* o) const;
  template <bool kBiased>
  void block(const uint32_t* k, const uint32_t* v, int64_t keys, const Work& work,
             State& state) const;

  int64_t size_;
  float scale_;  // of scores in powers of two
};

template <class T, int kSize>
void HeadAttention<T, kSize>::pack(const T* k, int64_t k_stride, const T* v, int64_t v_stride,
                                   int64_t keys, int64_t begin, uint32_t* packed) const {
  uint32_t* rows = packed + begin * words();
  uint32_t* values = packed + key_words(keys) + begin / kWord * size();
  for (int64_t j = begin; j < begin + kKeys; ++j, rows += words()) {
    const T* row = k + min64(j, keys - 1) * k_stride;
    for (int64_t w = 0; w < words(); w += kLanes) {
      const int64_t present = j < keys ? size() - w * kWord : 0;
      store_raw(rows + w, load_words(row + w * kWord, present), words() - w);
    }
  }
  for (int64_t j = begin; j < begin + kKeys; j += kWord, values += size()) {
    for (int64_t d = 0; d < size(); d += kLanes) {
      const int64_t left = size() - d;
      const T* row = v + min64(j, keys - 1) * v_stride + d;
      Words word = to_words(load(row, first_lanes(j < keys ? left : 0)));
      if constexpr (kWord == 2) {
        const bool next = j + 1 < keys;
        const Vec high = load(row + (next ? v_stride : 0), first_lanes(next ? left : 0));
        word = pair_halves(from_words(word), high);
      }
      store_raw(values + d, word, left);
    }
  }
}

template <class T, int kSize>
void HeadAttention<T, kSize>::load_queries(const T* q, int64_t stride, int64_t count,
                                           Words* out) const {
  for (int c = 0; c < kColumns; ++c) {
    for (int64_t w = 0; w < words(); w += kLanes) {
      Words rows[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const int64_t row = min64(c * kLanes + i, count - 1);
        rows[i] = load_words(q + row * stride + w * kWord, size() - w * kWord);
      }
      transpose(rows);
      for (int i = 0; i < min64(kLanes, words() - w); ++i) out[(w + i) * kColumns + c] = rows[i];
    }
  }
}

template <class T, int kSize>
void HeadAttention<T, kSize>::store_outputs(const Work& work, const State& state, int64_t count,
                                            T* out, int64_t stride) const {
  for (int c = 0; c < kColumns && c * kLanes < count; ++c) {
    // A query that saw no key still has the hidden keys' score as its reference.
    const Vec inverse =
        where_greater(state.reference[c], splat(kHidden / 2), div(splat(1), state.sum[c]), zero());
    const auto number = [&](int64_t d) {
      return d < size() ? mul(work.o[d * kColumns + c], inverse) : zero();
    };
    for (int64_t w = 0; w < words(); w += kLanes) {
      Words rows[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        const int64_t d = (w + i) * kWord;
        rows[i] = make_words<T>(number(d), kWord == 2 ? number(d + 1) : zero());
      }
      transpose(rows);
      for (int i = 0; i < min64(kLanes, count - c * kLanes); ++i) {
        store_words(out + (c * kLanes + i) * stride + w * kWord, rows[i], size() - w * kWord);
      }
    }
  }
}

// Additive terms of `keys` keys for the block's queries, in powers of two, as [key][kColumns].
template <class T, int kSize>
void HeadAttention<T, kSize>::fill_bias(const HeadMask& mask, int64_t first_query, int64_t count,
                                        int64_t first_key, int64_t keys, Vec* bias) const {
  alignas(64) float column[kQueryBlock];
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t i = 0; i < kQueryBlock; ++i) {
      const int64_t query = first_query + min64(i, count - 1);
      float value =
          mask.data == nullptr ? 0 : mask.data[query * mask.query_stride + first_key + j] * kLog2E;
      if (mask.causal && first_key + j > query) value = kHidden;
      column[i] = value > kHidden ? value : kHidden;
    }
    for (int c = 0; c < kColumns; ++c) bias[j * kColumns + c] = load_aligned(column + c * kLanes);
  }
}

template <class T, int kSize>
ATELIER_INLINE_MEMBER void HeadAttention<T, kSize>::score(const uint32_t* k, int64_t words,
                                                          const Words* q,
                                                          Vec (&s)[kRows][kColumns]) {
  ATELIER_UNROLL for (auto& row : s) { ATELIER_UNROLL for (Vec& value : row) value = zero(); }
  for (int64_t w = 0; w < words; ++w, q += kColumns) {
    Words b[kColumns];
    ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) b[c] = q[c];
    ATELIER_UNROLL for (int r = 0; r < kRows; ++r) {
      ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) {
        s[r][c] = dot<T>(s[r][c], b[c], k + r * words + w);
      }
    }
  }
}

// Probabilities of one tile of keys against the state's reference into `p`; adds them to `sum` and
// takes the scaled scores into `highest`. Of a partial tile only `present` keys count.
template <class T, int kSize>
template <bool kBiased, bool kPartial>
ATELIER_INLINE_MEMBER void HeadAttention<T, kSize>::tile(const uint32_t* k, int64_t present,
                                                         const Work& work, const Vec* bias,
                                                         const State& state, State& highest_and_sum,
                                                         Words* p) const {
  const Vec scale = splat(scale_);
  Vec s[kRows][kColumns];
  score(k, words(), work.q, s);
  ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) {
    Vec m = highest_and_sum.reference[c], total = highest_and_sum.sum[c];
    const Vec reference = state.reference[c];
    ATELIER_UNROLL for (int r = 0; r < kRows; ++r) {
      if (kPartial && r >= present) {
        s[r][c] = zero();
        continue;
      }
      const Vec scaled =
          kBiased ? fma(s[r][c], scale, bias[r * kColumns + c]) : mul(s[r][c], scale);
      m = max(m, scaled);
      s[r][c] = exp2<kPrecision<T>>(sub(scaled, reference));
      total = add(total, s[r][c]);
    }
    highest_and_sum.reference[c] = m;
    highest_and_sum.sum[c] = total;
    ATELIER_UNROLL for (int r = 0; r < kRows; r += kWord) {
      p[r / kWord * kColumns + c] = make_words<T>(s[r][c], s[r + kWord - 1][c]);
    }
  }
}

template <class T, int kSize>
template <bool kBiased>
void HeadAttention<T, kSize>::probabilities(const uint32_t* k, int64_t keys, const Work& work,
                                            const State& state, State& next) const {
  int64_t i = 0;
  for (; i + kRows <= keys; i += kRows) {
    tile<kBiased, false>(k + i * words(), kRows, work, work.bias + i * kColumns, state, next,
                         work.p + i / kWord * kColumns);
  }
  if (i < keys) {
    tile<kBiased, true>(k + i * words(), keys - i, work, work.bias + i * kColumns, state, next,
                        work.p + i / kWord * kColumns);
  }
}

// O[kDepth rows] += V^T P^T over `steps` words of keys.
template <class T, int kSize>
template <int kDepth>
void HeadAttention<T, kSize>::accumulate(const uint32_t* v, int64_t stride, const Words* p,
                                         int64_t steps, Vec* o) {
  Vec a[kDepth][kColumns];
  ATELIER_UNROLL for (int d = 0; d < kDepth; ++d) {
    ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) a[d][c] = o[d * kColumns + c];
  }
  for (int64_t i = 0; i < steps; ++i, p += kColumns, v += stride) {
    Words b[kColumns];
    ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) b[c] = p[c];
    ATELIER_UNROLL for (int d = 0; d < kDepth; ++d) {
      ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) a[d][c] = dot<T>(a[d][c], b[c], v + d);
    }
  }
  ATELIER_UNROLL for (int d = 0; d < kDepth; ++d) {
    ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) o[d * kColumns + c] = a[d][c];
  }
}

template <class T, int kSize>
void HeadAttention<T, kSize>::rescale(const State& highest, State& state, Vec* o) const {
  for (int c = 0; c < kColumns; ++c) {
    const Vec reference = max(highest.reference[c], state.reference[c]);
    const Vec factor = exp2<Precision::fp32>(sub(state.reference[c], reference));
    state.reference[c] = reference;
    state.sum[c] = mul(state.sum[c], factor);
    for (int64_t d = 0; d < size(); ++d) {
      o[d * kColumns + c] = mul(o[d * kColumns + c], factor);
    }
  }
}

template <class T, int kSize>
template <bool kBiased>
void HeadAttention<T, kSize>::block(const uint32_t* k, const uint32_t* v, int64_t keys,
                                    const Work& work, State& state) const {
  for (;;) {
    State next;  // the highest score seen, and the sum so far
    for (int c = 0; c < kColumns; ++c) {
      next.reference[c] = splat(2 * kHidden);
      next.sum[c] = state.sum[c];
    }
    probabilities<kBiased>(k, keys, work, state, next);
    bool over = false;
    for (int c = 0; c < kColumns; ++c) {
      const Vec limit = add(state.reference[c], splat(kLazy));
      over |= any_greater(next.reference[c], limit);
    }
    if (__builtin_expect(!over, 1)) {
      for (int c = 0; c < kColumns; ++c) state.sum[c] = next.sum[c];
      break;
    }
    rescale(next, state, work.o);
  }
  const int64_t steps = round_up(keys, kRows) / kWord;
  int64_t d = 0;
  for (; d + kTile <= size(); d += kTile) {
    accumulate<kTile>(v + d, size(), work.p, steps, work.o + d * kColumns);
  }
  if constexpr (kSize == 0 || kSize % kTile != 0) {
    for (; d < size(); ++d) accumulate<1>(v + d, size(), work.p, steps, work.o + d * kColumns);
  }
}

template <class T, int kSize>
void HeadAttention<T, kSize>::attend(const T* q, int64_t q_stride, int64_t first, int64_t count,
                                     const uint32_t* packed, int64_t keys, const HeadMask& mask,
                                     T* out, int64_t out_stride, void* memory) const {
  const Work work = lay_out(memory);
  load_queries(q, q_stride, count, work.q);
  const uint32_t* k = packed;
  const uint32_t* v = packed + key_words(keys);
  const int64_t visible = mask.causal ? min64(keys, first + count) : keys;
  State state;
  {
    Vec s[kRows][kColumns];
    score(k, words(), work.q, s);
    if (mask.any()) fill_bias(mask, first, count, 0, min64(kRows, visible), work.bias);
    for (int c = 0; c < kColumns; ++c) {
      Vec m = splat(kHidden);
      for (int r = 0; r < kRows && r < visible; ++r) {
        Vec scaled = mul(s[r][c], splat(scale_));
        if (mask.any()) scaled = add(scaled, work.bias[r * kColumns + c]);
        m = max(m, scaled);
      }
      state.reference[c] = m;
      state.sum[c] = zero();
    }
  }
  for (int64_t i = 0; i < size() * kColumns; ++i) work.o[i] = zero();
  for (int64_t j = 0; j < visible; j += kKeys) {
    const int64_t n = min64(kKeys, visible - j);
    const uint32_t* kj = k + j * words();
    const uint32_t* vj = v + j / kWord * size();
    if (mask.any()) {
      fill_bias(mask, first, count, j, n, work.bias);
      block<true>(kj, vj, n, work, state);
    } else {
      block<false>(kj, vj, n, work, state);
    }
  }
  store_outputs(work, state, count, out, out_stride);
}

}  // namespace
}  // namespace atelier
