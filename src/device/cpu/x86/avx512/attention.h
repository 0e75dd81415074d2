// Attention with the scores kept in registers, transposed: a register holds one key against 16
// queries. Maximum and sum over the keys are then plain vector operations, no head size is padded
// to a tile, and only the probabilities go through memory.
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
#include "device/cpu/x86/avx512/vector.h"

namespace atelier {
namespace {

constexpr int kColumns = 4;  // registers of 16 queries
constexpr int kQueryBlock = 16 * kColumns;
constexpr int kRows = 6;  // keys per score tile: kRows * kColumns accumulators
constexpr float kLazy = 64;  // in powers of two
constexpr float kHidden = -1e30F;  // a score no key can reach

template <class T>
constexpr int kPerWord = sizeof(T) == 2 && kNativeBf16 ? 2 : 1;
template <class T>
constexpr int kKeyBlock = kPerWord<T> == 2 ? 192 : 48;  // probabilities of a block stay in L1

/// acc + a . b where both hold words of T; `a` is one word for all lanes.
template <class T>
ATELIER_INLINE __m512 dot(__m512 acc, __m512i b, const uint32_t* a) {
  const __m512i word = _mm512_set1_epi32(static_cast<int>(*a));
#if defined(__AVX512BF16__)
  if constexpr (kPerWord<T> == 2) return _mm512_dpbf16_ps(acc, (__m512bh)b, (__m512bh)word);
#endif
  return _mm512_fmadd_ps(_mm512_castsi512_ps(b), _mm512_castsi512_ps(word), acc);
}

#if defined(__AVX512BF16__)
/// bf16 of `low` and `high` side by side in each word.
ATELIER_INLINE __m512i pair_words(__m512 low, __m512 high) {
  const __m512i interleave =
      _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                       21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(interleave, (__m512i)_mm512_cvtne2ps_pbh(high, low));
}
#endif

/// Up to 16 words of a row; `count` numbers are read, the rest is zero.
template <class T>
ATELIER_INLINE __m512i load_words(const T* p, int64_t count) {
  if constexpr (kPerWord<T> == 2) {
    return _mm512_maskz_loadu_epi16(count >= 32 ? ~__mmask32{0} : (1U << count) - 1, p);
  } else {
    return _mm512_castps_si512(load(p, first_lanes(count)));
  }
}
template <class T>
ATELIER_INLINE void store_words(T* p, __m512i words, int64_t count) {
  if constexpr (kPerWord<T> == 2) {
    _mm512_mask_storeu_epi16(p, count >= 32 ? ~__mmask32{0} : (1U << count) - 1, words);
  } else {
    store(p, _mm512_castsi512_ps(words), first_lanes(count));
  }
}

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
           int64_t{sizeof(__m512)};
  }

  void pack(const T* k, int64_t k_stride, const T* v, int64_t v_stride, int64_t keys, int64_t begin,
            uint32_t* packed) const;
  void attend(const T* q, int64_t q_stride, int64_t first, int64_t count, const uint32_t* packed,
              int64_t keys, const HeadMask& mask, T* out, int64_t out_stride, void* work) const;

 private:
  struct Work {
    __m512i *q, *p;
    __m512 *o, *bias;
  };
  struct State {
    __m512 reference[kColumns], sum[kColumns];
  };

  Work lay_out(void* memory) const {
    __m512i* q = static_cast<__m512i*>(memory);
    __m512i* p = q + words() * kColumns;
    __m512* o = reinterpret_cast<__m512*>(p + kKeys / kWord * kColumns);
    return {q, p, o, o + size() * kColumns};
  }
  void load_queries(const T* q, int64_t stride, int64_t count, __m512i* out) const;
  void store_outputs(const Work& work, const State& state, int64_t count, T* out,
                     int64_t stride) const;
  void fill_bias(const HeadMask& mask, int64_t first_query, int64_t count, int64_t first_key,
                 int64_t keys, __m512* bias) const;
  ATELIER_INLINE void score(const uint32_t* k, int64_t words, const __m512i* q,
                            __m512 (&s)[kRows][kColumns]);
  template <bool kBiased, bool kPartial>
  ATELIER_INLINE_MEMBER void tile(const uint32_t* k, int64_t present, const Work& work,
                                  const __m512* bias, const State& state, State& highest_and_sum,
                                  __m512i* p) const;
  template <bool kBiased>
  void probabilities(const uint32_t* k, int64_t keys, const Work& work, const State& state,
                     State& next) const;
  template <int kDepth>
  static void accumulate(const uint32_t* v, int64_t stride, const __m512i* p, int64_t steps,
                         __m512* o);
  void rescale(const State& highest, State& state, __m512* o) const;
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
    for (int64_t w = 0; w < words(); w += 16) {
      const int64_t present = j < keys ? size() - w * kWord : 0;
      _mm512_mask_storeu_epi32(rows + w, first_lanes(words() - w),
                               load_words(row + w * kWord, present));
    }
  }
  for (int64_t j = begin; j < begin + kKeys; j += kWord, values += size()) {
    for (int64_t d = 0; d < size(); d += 16) {
      const __mmask16 lanes = first_lanes(size() - d);
      const __mmask16 present = j < keys ? lanes : __mmask16{0};
      const T* row = v + min64(j, keys - 1) * v_stride + d;
      __m512i word = _mm512_castps_si512(load(row, present));
      if constexpr (kWord == 2) {
        const __mmask16 next = j + 1 < keys ? lanes : __mmask16{0};
        const __m512i high = _mm512_castps_si512(load(row + (next != 0 ? v_stride : 0), next));
        word = _mm512_or_si512(_mm512_srli_epi32(word, 16), high);
      }
      _mm512_mask_storeu_epi32(values + d, lanes, word);
    }
  }
}

template <class T, int kSize>
void HeadAttention<T, kSize>::load_queries(const T* q, int64_t stride, int64_t count,
                                           __m512i* out) const {
  for (int c = 0; c < kColumns; ++c) {
    for (int64_t w = 0; w < words(); w += 16) {
      __m512i rows[16];
      for (int i = 0; i < 16; ++i) {
        const int64_t row = min64(c * 16 + i, count - 1);
        rows[i] = load_words(q + row * stride + w * kWord, size() - w * kWord);
      }
      transpose16(rows);
      for (int i = 0; i < min64(16, words() - w); ++i) out[(w + i) * kColumns + c] = rows[i];
    }
  }
}

template <class T, int kSize>
void HeadAttention<T, kSize>::store_outputs(const Work& work, const State& state, int64_t count,
                                            T* out, int64_t stride) const {
  for (int c = 0; c < kColumns && c * 16 < count; ++c) {
    // A query that saw no key still has the hidden keys' score as its reference.
    const __mmask16 seen = _mm512_cmp_ps_mask(state.reference[c], splat(kHidden / 2), _CMP_GT_OQ);
    const __m512 inverse = _mm512_maskz_div_ps(seen, splat(1), state.sum[c]);
    const auto number = [&](int64_t d) {
      return d < size() ? _mm512_mul_ps(work.o[d * kColumns + c], inverse) : _mm512_setzero_ps();
    };
    for (int64_t w = 0; w < words(); w += 16) {
      __m512i rows[16];
      for (int i = 0; i < 16; ++i) {
#if defined(__AVX512BF16__)
        if constexpr (kWord == 2) {
          rows[i] = pair_words(number(2 * (w + i)), number(2 * (w + i) + 1));
          continue;
        }
#endif
        rows[i] = _mm512_castps_si512(number(w + i));
      }
      transpose16(rows);
      for (int i = 0; i < min64(16, count - c * 16); ++i) {
        store_words(out + (c * 16 + i) * stride + w * kWord, rows[i], size() - w * kWord);
      }
    }
  }
}

// Additive terms of `keys` keys for the block's queries, in powers of two, as [key][kColumns].
template <class T, int kSize>
void HeadAttention<T, kSize>::fill_bias(const HeadMask& mask, int64_t first_query, int64_t count,
                                        int64_t first_key, int64_t keys, __m512* bias) const {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  for (int c = 0; c < kColumns; ++c) {
    const __m512i row = _mm512_min_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16 * c)),
                                         _mm512_set1_epi32(static_cast<int>(count) - 1));
    const __m512i offset =
        _mm512_mullo_epi32(row, _mm512_set1_epi32(static_cast<int>(mask.query_stride)));
    for (int64_t j = 0; j < keys; ++j) {
      __m512 value = _mm512_setzero_ps();
      if (mask.data != nullptr) {
        const float* column = mask.data + first_query * mask.query_stride + first_key + j;
        value = mask.query_stride == 0 ? splat(*column) : _mm512_i32gather_ps(offset, column, 4);
        value = _mm512_max_ps(_mm512_mul_ps(value, splat(kLog2E)), splat(kHidden));
      }
      if (mask.causal) {
        const __m512i last = _mm512_set1_epi32(static_cast<int>(first_key + j - first_query));
        const __mmask16 later = _mm512_cmplt_epi32_mask(row, last);
        value = _mm512_mask_mov_ps(value, later, splat(kHidden));
      }
      bias[j * kColumns + c] = value;
    }
  }
}

template <class T, int kSize>
ATELIER_INLINE_MEMBER void HeadAttention<T, kSize>::score(const uint32_t* k, int64_t words,
                                                          const __m512i* q,
                                                          __m512 (&s)[kRows][kColumns]) {
  ATELIER_UNROLL for (auto& row : s) {
    ATELIER_UNROLL for (__m512& value : row) value = _mm512_setzero_ps();
  }
  for (int64_t w = 0; w < words; ++w, q += kColumns) {
    __m512i b[kColumns];
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
                                                         const Work& work, const __m512* bias,
                                                         const State& state, State& highest_and_sum,
                                                         __m512i* p) const {
  const __m512 scale = splat(scale_);
  __m512 s[kRows][kColumns];
  score(k, words(), work.q, s);
  ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) {
    __m512 m = highest_and_sum.reference[c], total = highest_and_sum.sum[c];
    const __m512 reference = state.reference[c];
    ATELIER_UNROLL for (int r = 0; r < kRows; ++r) {
      if (kPartial && r >= present) {
        s[r][c] = _mm512_setzero_ps();
        continue;
      }
      const __m512 scaled = kBiased ? _mm512_fmadd_ps(s[r][c], scale, bias[r * kColumns + c])
                                    : _mm512_mul_ps(s[r][c], scale);
      m = _mm512_max_ps(m, scaled);
      s[r][c] = exp2<kPrecision<T>>(_mm512_sub_ps(scaled, reference));
      total = _mm512_add_ps(total, s[r][c]);
    }
    highest_and_sum.reference[c] = m;
    highest_and_sum.sum[c] = total;
#if defined(__AVX512BF16__)
    if constexpr (kWord == 2) {
      ATELIER_UNROLL for (int r = 0; r < kRows; r += 2) {
        p[r / 2 * kColumns + c] = pair_words(s[r][c], s[r + 1][c]);
      }
      continue;
    }
#endif
    ATELIER_UNROLL for (int r = 0; r < kRows; ++r) {
      p[r * kColumns + c] = _mm512_castps_si512(s[r][c]);
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
void HeadAttention<T, kSize>::accumulate(const uint32_t* v, int64_t stride, const __m512i* p,
                                         int64_t steps, __m512* o) {
  __m512 a[kDepth][kColumns];
  ATELIER_UNROLL for (int d = 0; d < kDepth; ++d) {
    ATELIER_UNROLL for (int c = 0; c < kColumns; ++c) a[d][c] = o[d * kColumns + c];
  }
  for (int64_t i = 0; i < steps; ++i, p += kColumns, v += stride) {
    __m512i b[kColumns];
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
void HeadAttention<T, kSize>::rescale(const State& highest, State& state, __m512* o) const {
  for (int c = 0; c < kColumns; ++c) {
    const __m512 reference = _mm512_max_ps(highest.reference[c], state.reference[c]);
    const __m512 factor = exp2<Precision::fp32>(_mm512_sub_ps(state.reference[c], reference));
    state.reference[c] = reference;
    state.sum[c] = _mm512_mul_ps(state.sum[c], factor);
    for (int64_t d = 0; d < size(); ++d) {
      o[d * kColumns + c] = _mm512_mul_ps(o[d * kColumns + c], factor);
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
      const __m512 limit = _mm512_add_ps(state.reference[c], splat(kLazy));
      over |= _mm512_cmp_ps_mask(next.reference[c], limit, _CMP_GT_OQ) != 0;
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
    __m512 s[kRows][kColumns];
    score(k, words(), work.q, s);
    if (mask.any()) fill_bias(mask, first, count, 0, min64(kRows, visible), work.bias);
    for (int c = 0; c < kColumns; ++c) {
      __m512 m = splat(kHidden);
      for (int r = 0; r < kRows && r < visible; ++r) {
        __m512 scaled = _mm512_mul_ps(s[r][c], splat(scale_));
        if (mask.any()) scaled = _mm512_add_ps(scaled, work.bias[r * kColumns + c]);
        m = _mm512_max_ps(m, scaled);
      }
      state.reference[c] = m;
      state.sum[c] = _mm512_setzero_ps();
    }
  }
  for (int64_t i = 0; i < size() * kColumns; ++i) work.o[i] = _mm512_setzero_ps();
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

/// One kernel object and the loops over heads and query blocks.
template <class T, int kSize>
struct AttentionDriver {
  static HeadAttention<T, kSize> kernel(const CpuAttention& s) {
    return HeadAttention<T, kSize>(s.head_size, s.scale);
  }
  static int64_t head_words(const CpuAttention& s) {
    const auto head = kernel(s);
    return head.key_words(s.keys) + head.value_words(s.keys);
  }
  static const T* at(const CpuHeads& view, const CpuAttention& s, int64_t plane, int64_t row) {
    return static_cast<const T*>(view.data) + plane / s.heads * view.batch_stride +
           plane % s.heads * view.head_stride + row * view.row_stride;
  }

  static void pack(const CpuAttention& s, const CpuHeads& k, const CpuHeads& v, uint32_t* packed,
                   const Parallel& parallel) {
    constexpr int64_t kKeys = kKeyBlock<T>;
    const int64_t blocks = divide_up(s.keys, kKeys), planes = s.batch * s.heads;
    parallel_for(parallel, planes * blocks, [&](int64_t begin, int64_t end) {
      const auto head = kernel(s);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / blocks;
        head.pack(at(k, s, plane, 0), k.row_stride, at(v, s, plane, 0), v.row_stride, s.keys,
                  i % blocks * kKeys, packed + plane * head_words(s));
      }
    });
  }

  static void attend(const CpuAttention& s, const CpuHeads& q, const uint32_t* packed,
                     const CpuMask& mask, const CpuHeads& out, const Parallel& parallel) {
    const int64_t blocks = divide_up(s.queries, kQueryBlock), planes = s.batch * s.heads;
    parallel_for(parallel, planes * blocks, [&](int64_t begin, int64_t end) {
      const auto head = kernel(s);
      const Scratch scratch(head.work_bytes());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t plane = i / blocks, first = i % blocks * kQueryBlock;
        HeadMask head_mask{nullptr, mask.query_stride, s.causal};
        if (mask.data != nullptr) {
          head_mask.data =
              mask.data + plane / s.heads * mask.batch_stride + plane % s.heads * mask.head_stride;
        }
        head.attend(at(q, s, plane, first), q.row_stride, first,
                    min64(kQueryBlock, s.queries - first), packed + plane * head_words(s), s.keys,
                    head_mask, const_cast<T*>(at(out, s, plane, first)), out.row_stride,
                    scratch.data());
      }
    });
  }
};

/// Calls body(AttentionDriver<T, D>{}) for the shape's type and head size.
template <class F>
auto with_attention(const CpuAttention& s, const F& body) {
  const auto with_size = [&]<class T>(T) {
    switch (s.head_size) {
      case 40:
        return body(AttentionDriver<T, 40>{});
      case 64:
        return body(AttentionDriver<T, 64>{});
      case 80:
        return body(AttentionDriver<T, 80>{});
      case 128:
        return body(AttentionDriver<T, 128>{});
      case 160:
        return body(AttentionDriver<T, 160>{});
      case 512:
        return body(AttentionDriver<T, 512>{});
      default:
        return body(AttentionDriver<T, 0>{});
    }
  };
  return s.type == CpuType::fp32 ? with_size(float{}) : with_size(Bf16{});
}

int64_t packed_kv_bytes(const CpuAttention& s) {
  return with_attention(s, [&]<class Driver>(Driver) {
    return s.batch * s.heads * Driver::head_words(s) * int64_t{sizeof(uint32_t)};
  });
}
void pack_kv(const CpuAttention& s, const CpuHeads& k, const CpuHeads& v, void* packed,
             const Parallel& parallel) {
  with_attention(s, [&]<class Driver>(Driver) {
    Driver::pack(s, k, v, static_cast<uint32_t*>(packed), parallel);
  });
}
void attend(const CpuAttention& s, const CpuHeads& q, const void* packed, const CpuMask& mask,
            const CpuHeads& out, const Parallel& parallel) {
  with_attention(s, [&]<class Driver>(Driver) {
    Driver::attend(s, q, static_cast<const uint32_t*>(packed), mask, out, parallel);
  });
}

}  // namespace
}  // namespace atelier
