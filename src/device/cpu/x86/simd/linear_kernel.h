// Linear layers on register tiles: a few rows of x times kPanel packed columns, along strips of the
// depth that keep a panel's strip in the first cache while all rows of a task pass it. Each sum
// runs over the depth in order, whatever the rows and threads.
//
// Shapes: K inputs in W words (see vector.h; of 8-bit integers, four make a word). Packed weights
// [panel][W][kPanel] words; where a word is fp32 but the layer bf16, [panel][W][kPanel] bf16. A
// panel of a gated layer has kPanel / 2 columns and then their gates.
#pragma once

#include <string.h>

#include "device/cpu/linear.h"
#include "device/cpu/parallel.h"
#include "device/cpu/scratch.h"
#include "device/cpu/x86/simd/columns.h"
#include "device/cpu/x86/simd/epilogue.h"
#include "device/cpu/x86/simd/quantise.h"
#include "device/cpu/x86/simd/tail_windows.h"

namespace atelier {
namespace {

constexpr int kPanel = kLanes == 16 ? 64 : 16;  // columns of packed weights
constexpr int kPanelVectors = kPanel / kLanes;
constexpr int kLinearRows = 6;  // rows of x per register tile

/// A run of inputs and the words of depth they fill.
struct InputWords {
  int64_t inputs, first, words;
};

/// The products of words that hold numbers N.
template <class N>
struct Products {
  static constexpr int kWord = kPerWord<N>;  // numbers in a word
  static constexpr int64_t kOutputBytes = 0;  // behind the panels, for each output
  static int64_t words(int64_t inputs) { return divide_up(inputs, kWord); }
  ATELIER_INLINE_MEMBER static Vec dot(Vec acc, Words b, const uint32_t* a) {
    return atelier::dot<N>(acc, b, a);
  }
};

/// What finishing makes of the sums of kLanes neighbouring outputs.
template <class N>
class Columns {
 public:
  /// `behind` is what lies behind the panels, for `outputs` outputs.
  Columns(const float* bias, const void* /*behind*/, int64_t /*outputs*/, int64_t output,
          Lanes lanes)
      : bias_(bias == nullptr ? zero() : load(bias + output, lanes)) {}
  /// `scales` are those of the rows, where they are quantised.
  ATELIER_INLINE_MEMBER Vec finish(const float* sums, const float*, int64_t) const {
    return add(load_aligned(sums), bias_);
  }

 private:
  Vec bias_;
};

template <class N>
class LinearKernel {
 public:
  using T = Stored<N>;
  using Word = uint32_t;
  static constexpr int kWord = Products<N>::kWord;
  /// Packed weights are bf16 that products take as fp32.
  static constexpr bool kWidened = sizeof(T) == 2 && kWord == 1;
  static constexpr int64_t kStored = kWidened ? 2 : 4;  // bytes of a packed word

  explicit LinearKernel(const CpuLinear& layer)
      : outputs_(layer.outputs),
        windows_(layer, kPanel, kWord),
        main_{layer.inputs, 0, Products<N>::words(layer.inputs)},
        tail_{layer.tail, main_.words, windows_.units()},
        words_(main_.words + tail_.words),
        panel_words_(main_.words + windows_.width()),
        epilogue_(layer.epilogue),
        gated_(layer.epilogue == CpuEpilogue::geglu),
        columns_(gated_ ? outputs_ / 2 : outputs_) {}

  int64_t panels() const { return divide_up(columns_, gated_ ? kPanel / 2 : kPanel); }
  int64_t panel_bytes() const { return panel_words_ * kPanel * kStored; }
  int64_t panels_bytes() const { return panels() * panel_bytes(); }
  int64_t weight_bytes() const { return panels_bytes() + outputs_ * Products<N>::kOutputBytes; }
  int64_t scratch_bytes(int64_t rows, int threads) const {
    const int64_t block = rows_per_task(rows, threads);
    const int64_t tail = tail_.inputs * int64_t{sizeof(T)};
    return threads * block *
           (kPanel * int64_t{sizeof(float)} + (copied() ? copy_bytes() : 0) + tail);
  }

  const InputWords& main() const { return main_; }
  const InputWords& tail() const { return tail_; }
  /// The words of one range, of the tail those that the panel takes: weights
  /// [outputs][range.inputs].
  template <class S>
  void pack(const InputWords& range, const WeightRows<S>& weights, int64_t panel,
            char* packed) const;
  /// Calls body(rows, present, output, column) for kLanes columns of a panel at a time, whose
  /// weights are `rows`: those of outputs from `output` on, `present` of which exist.
  template <class S, class F>
  void for_columns(const WeightRows<S>& weights, int64_t panel, const F& body) const;
  void run(const CpuLinearRun& run, const Parallel& parallel) const;

 private:
  static constexpr int64_t kStrip = 128;  // words of depth
  static constexpr int64_t kBlockBytes = 1 << 20;  // of x per task
  static constexpr int64_t kFewestRows = 96, kMostRows = 192;  // per task

  /// Whether rows are copied whatever their stride.
  bool copied() const {
    return kWidened || kQuantised<N> || tail_.words > 0 || main_.inputs % kWord != 0;
  }
  /// Of one row: its words and its scale.
  int64_t copy_bytes() const { return (words_ + 1) * int64_t{sizeof(Word)}; }
  /// Whether rows can be read as words where they lie.
  bool in_place(const CpuLinearRun& run) const { return !copied() && run.x_stride % kWord == 0; }
  int64_t rows_per_task(int64_t rows, int threads) const;
  void copy_rows(const CpuLinearRun& run, int64_t first, int64_t count, Word* to,
                 float* scales) const;
  void add_tail(const void* down, int64_t count, Word* rows, float* sums, T* tail) const;
  void multiply(const Word* x, int64_t stride, int64_t rows, const char* panel, int64_t skipped,
                float* sums) const;
  /// Words of the tail before those that a panel takes.
  int64_t skipped(int64_t panel) const { return windows_.first(windows_.of_panel(panel)); }
  void finish(const CpuLinearRun& run, int64_t first, int64_t rows, int64_t panel,
              const float* sums, const float* scales) const;
  void copy_range(const InputWords& range, const T* x, int64_t stride, int64_t count,
                  Word* to) const;

  int64_t outputs_;
  TailWindows windows_;
  InputWords main_, tail_;
  int64_t words_, panel_words_;  // of a row, with the whole tail, and of a panel
  CpuEpilogue epilogue_;
  bool gated_;
  int64_t columns_;  // of y
};

template <class N>
template <class S>
void LinearKernel<N>::pack(const InputWords& range, const WeightRows<S>& weights, int64_t panel,
                           char* packed) const {
  constexpr int64_t kDepth = 64;
  alignas(64) float columns[kDepth * kPanel];
  char* out = packed + panel * panel_bytes() + range.first * kPanel * kStored;
  const int64_t part = gated_ ? kPanel / 2 : kPanel, first = panel * part;
  const int64_t present = max64(0, min64(part, columns_ - first));
  const S* const values = weights.rows(first, present);
  const S* const gates = gated_ ? weights.rows(columns_ + first, present, part) : values;
  const bool tail = range.first > 0;
  const int64_t from = tail ? skipped(panel) * kWord : 0;
  const int64_t depth = (tail ? windows_.width() : range.words) * kWord;
  for (int64_t k = 0; k < depth; k += kDepth) {
    // Values and gates come from two places; read_columns() is for one, so it is called per vector.
    for (int64_t column = 0; column < kPanel; column += kLanes) {
      const bool gate = gated_ && column >= part;
      const int64_t output = column - (gate ? part : 0);
      alignas(64) float vectors[kDepth * kLanes];
      read_columns((gate ? gates : values) + output * range.inputs, range.inputs, present - output,
                   from + k, kDepth, kLanes, vectors);
      for (int64_t i = 0; i < kDepth; ++i) {
        store(columns + i * kPanel + column, load_aligned(vectors + i * kLanes));
      }
    }
    for (int64_t i = 0; i < min64(kDepth, depth - k); i += kWord) {
      for (int64_t column = 0; column < kPanel; column += kLanes) {
        const Vec low = load_aligned(columns + i * kPanel + column);
        if constexpr (kWidened) {
          Bf16* to = reinterpret_cast<Bf16*>(out) + (k + i) * kPanel + column;
          store(to, low, all_lanes());
        } else {
          const Vec high = load_aligned(columns + (i + kWord - 1) * kPanel + column);
          Word* to = reinterpret_cast<Word*>(out) + (k + i) / kWord * kPanel + column;
          store_raw(to, make_words<T>(low, high), kLanes);
        }
      }
    }
  }
}

template <class N>
template <class S, class F>
void LinearKernel<N>::for_columns(const WeightRows<S>& weights, int64_t panel,
                                  const F& body) const {
  const int64_t part = gated_ ? kPanel / 2 : kPanel;
  for (int64_t column = 0; column < kPanel; column += kLanes) {
    const bool gate = gated_ && column >= part;
    const int64_t at = panel * part + column - (gate ? part : 0);
    const int64_t present = max64(0, min64(kLanes, columns_ - at));
    const int64_t output = present > 0 ? at + (gate ? columns_ : 0) : 0;
    body(weights.rows(output, present), present, output, column);
  }
}

// Enough rows to make a panel's strip worth reading, few enough to stay in the second cache.
template <class N>
int64_t LinearKernel<N>::rows_per_task(int64_t rows, int threads) const {
  const int64_t fitting = kBlockBytes / (words_ * int64_t{sizeof(Word)});
  const int64_t most = round_up(max64(kFewestRows, min64(kMostRows, fitting)), kLinearRows);
  int64_t tasks = divide_up(rows, most);
  if (tasks > threads) tasks = round_up(tasks, threads);
  return round_up(divide_up(rows, tasks), kLinearRows);
}

// Rows [first, first + count) as words, zero past the last input; `scales` of those quantised.
template <class N>
void LinearKernel<N>::copy_rows(const CpuLinearRun& run, int64_t first, int64_t count, Word* to,
                                float* scales) const {
  const T* x = static_cast<const T*>(run.x) + first * run.x_stride;
  if constexpr (kQuantised<N>) {
    for (int64_t row = 0; row < count; ++row, x += run.x_stride, to += words_) {
      scales[row] = quantise_row(
          x, main_.inputs, Products<N>::kOffset,
          [=](int64_t quad, Words bytes) { store_words_raw(to + quad * kLanes, bytes); });
    }
    return;
  }
  copy_range(main_, x, run.x_stride, count, to);
}

// Gives rows that lie copied their tails, the products with `down`; `tail` has room for them.
template <class N>
void LinearKernel<N>::add_tail(const void* down, int64_t count, Word* rows, float* sums,
                               T* tail) const {
  const LinearKernel first({.type = sizeof(T) == 4 ? CpuType::fp32 : CpuType::bf16,
                            .inputs = main_.inputs,
                            .outputs = tail_.inputs});
  const CpuLinearRun run{.rows = count,
                         .x = nullptr,
                         .x_stride = 0,
                         .packed = down,
                         .bias = nullptr,
                         .y = tail,
                         .y_stride = tail_.inputs};
  for (int64_t panel = 0; panel < first.panels(); ++panel) {
    first.multiply(rows, words_, count,
                   static_cast<const char*>(down) + panel * first.panel_bytes(), 0, sums);
    first.finish(run, 0, count, panel, sums, nullptr);
  }
  copy_range(tail_, tail, tail_.inputs, count, rows);
}

template <class N>
void LinearKernel<N>::copy_range(const InputWords& range, const T* x, int64_t stride, int64_t count,
                                 Word* to) const {
  to += range.first;
  for (int64_t row = 0; row < count; ++row, x += stride, to += words_) {
    for (int64_t w = 0; w < range.words; w += kLanes) {
      store_raw(to + w, load_words(x + w * kWord, range.inputs - w * kWord), range.words - w);
    }
  }
}

// sums [rows][kPanel] = x times one panel, which skips words of the tail; rows past the last repeat
// it.
template <class N>
void LinearKernel<N>::multiply(const Word* x, int64_t stride, int64_t rows, const char* panel,
                               int64_t skipped, float* sums) const {
  for (int64_t w0 = 0, n = 0; w0 < panel_words_; w0 += n) {
    n = min64(kStrip, (w0 < main_.words ? main_.words : panel_words_) - w0);
    const int64_t place = w0 < main_.words ? w0 : w0 + skipped;
    for (int64_t row = 0; row < rows; row += kLinearRows) {
      const Word* a[kLinearRows];
      ATELIER_UNROLL for (int r = 0; r < kLinearRows; ++r) {
        a[r] = x + min64(row + r, rows - 1) * stride + place;
      }
      const char* b = panel + w0 * kPanel * kStored;
      float* out = sums + row * kPanel;
      Vec s[kLinearRows][kPanelVectors];
      ATELIER_UNROLL for (int r = 0; r < kLinearRows; ++r) {
        ATELIER_UNROLL for (int c = 0; c < kPanelVectors; ++c) {
          s[r][c] = w0 == 0 ? zero() : load_aligned(out + r * kPanel + c * kLanes);
        }
      }
      for (int64_t w = 0; w < n; ++w, b += kPanel * kStored) {
        Words weights[kPanelVectors];
        ATELIER_UNROLL for (int c = 0; c < kPanelVectors; ++c) {
          if constexpr (kWidened) {
            weights[c] = to_words(load(reinterpret_cast<const Bf16*>(b) + kLanes * c));
          } else {
            weights[c] = load_aligned(reinterpret_cast<const Word*>(b) + kLanes * c);
          }
        }
        ATELIER_UNROLL for (int r = 0; r < kLinearRows; ++r) {
          ATELIER_UNROLL for (int c = 0; c < kPanelVectors; ++c) {
            s[r][c] = Products<N>::dot(s[r][c], weights[c], a[r] + w);
          }
        }
      }
      ATELIER_UNROLL for (int r = 0; r < kLinearRows; ++r) {
        ATELIER_UNROLL for (int c = 0; c < kPanelVectors; ++c) {
          store_aligned(out + r * kPanel + c * kLanes, s[r][c]);
        }
      }
    }
  }
}

template <class N>
void LinearKernel<N>::finish(const CpuLinearRun& run, int64_t first, int64_t rows, int64_t panel,
                             const float* sums, const float* scales) const {
  const char* behind = static_cast<const char*>(run.packed) + panels_bytes();
  const int64_t part = gated_ ? kPanel / 2 : kPanel, begin = panel * part;
  for (int64_t column = 0; column < min64(part, columns_ - begin); column += kLanes) {
    const Lanes lanes = first_lanes(columns_ - begin - column);
    const int64_t output = begin + column;
    const Columns<N> values(run.bias, behind, outputs_, output, lanes);
    const Columns<N> gates(run.bias, behind, outputs_, output + (gated_ ? columns_ : 0), lanes);
    T* y = static_cast<T*>(run.y) + first * run.y_stride + begin + column;
    for (int64_t row = 0; row < rows; ++row, y += run.y_stride) {
      const float* sum = sums + row * kPanel + column;
      Vec value = with_epilogue<T>(epilogue_, values.finish(sum, scales, row));
      if (gated_) {
        value = mul(value, gelu<kPrecision<T>>(gates.finish(sum + part, scales, row)));
      }
      store(y, run.accumulate ? add(value, load(y, lanes)) : value, lanes);
    }
  }
}

template <class N>
void LinearKernel<N>::run(const CpuLinearRun& run, const Parallel& parallel) const {
  const int64_t block = rows_per_task(run.rows, parallel.threads());
  const int64_t row_tasks = divide_up(run.rows, block);
  const int64_t wanted = parallel.threads() == 1 ? 1 : divide_up(2 * parallel.threads(), row_tasks);
  const int64_t panel_tasks = min64(panels(), wanted);
  parallel_for(parallel, row_tasks * panel_tasks, [&](int64_t begin, int64_t end) {
    const Scratch sums(block * kPanel * int64_t{sizeof(float)});
    const Scratch copies(in_place(run) ? 64 : block * copy_bytes());
    const Scratch tail(block * tail_.inputs * int64_t{sizeof(T)} + 64);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / panel_tasks * block, part = task % panel_tasks;
      const int64_t rows = min64(block, run.rows - first);
      const Word* x = static_cast<const Word*>(copies.data());
      float* scales = nullptr;
      int64_t stride = words_;
      if (in_place(run)) {
        stride = run.x_stride / kWord;
        x = static_cast<const Word*>(run.x) + first * stride;
      } else {
        scales = static_cast<float*>(copies.data()) + block * words_;
        copy_rows(run, first, rows, static_cast<Word*>(copies.data()), scales);
        if (tail_.words > 0) {
          add_tail(run.down, rows, static_cast<Word*>(copies.data()),
                   static_cast<float*>(sums.data()), static_cast<T*>(tail.data()));
        }
      }
      const int64_t last = panels() * (part + 1) / panel_tasks;
      for (int64_t panel = panels() * part / panel_tasks; panel < last; ++panel) {
        const char* packed = static_cast<const char*>(run.packed) + panel * panel_bytes();
        multiply(x, stride, rows, packed, skipped(panel), static_cast<float*>(sums.data()));
        finish(run, first, rows, panel, static_cast<const float*>(sums.data()), scales);
      }
    }
  });
}

}  // namespace
}  // namespace atelier
