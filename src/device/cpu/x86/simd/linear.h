// Linear layers on register tiles: a few rows of x times kOutputs packed columns, along strips of
// the depth that keep a panel's strip in the first cache while all rows of a task pass it. Each sum
// runs over the depth in order, whatever the rows and threads.
//
// Shapes: K inputs in W words (see vector.h). Packed weights [panel][W][kOutputs] words; where a
// word is fp32 but the layer bf16, [panel][W][kOutputs] bf16. A panel of a gated layer has
// kOutputs / 2 columns and then their gates.
#pragma once

#include <string.h>

#include "device/cpu/linear.h"
#include "device/cpu/parallel.h"
#include "device/cpu/scratch.h"
#include "device/cpu/x86/simd/columns.h"
#include "device/cpu/x86/simd/linear_rows.h"

namespace atelier {
namespace {

constexpr int kPanel = kLanes == 16 ? 64 : 16;  // columns of packed weights
constexpr int kPanelVectors = kPanel / kLanes;
constexpr int kLinearRows = 6;  // rows of x per register tile

/// A run of inputs and the words of depth they fill.
struct InputWords {
  int64_t inputs, first, words;
};

template <class T>
class LinearKernel {
 public:
  using Word = uint32_t;
  static constexpr int kWord = kPerWord<T>;
  /// Packed weights are bf16 that products take as fp32.
  static constexpr bool kWidened = sizeof(T) == 2 && kWord == 1;
  static constexpr int64_t kStored = kWidened ? 2 : 4;  // bytes of a packed word

  explicit LinearKernel(const CpuLinear& layer)
      : outputs_(layer.outputs),
        main_{layer.inputs, 0, divide_up(layer.inputs, kWord)},
        tail_{layer.tail, main_.words, divide_up(layer.tail, kWord)},
        words_(main_.words + tail_.words),
        epilogue_(layer.epilogue),
        gated_(layer.epilogue == CpuEpilogue::geglu),
        columns_(gated_ ? outputs_ / 2 : outputs_) {}

  int64_t panels() const { return divide_up(columns_, gated_ ? kPanel / 2 : kPanel); }
  int64_t panel_bytes() const { return words_ * kPanel * kStored; }
  int64_t weight_bytes() const { return panels() * panel_bytes(); }
  int64_t scratch_bytes(int64_t rows, int threads) const {
    const int64_t block = rows_per_task(rows, threads);
    const int64_t copies = copied() ? words_ * int64_t{sizeof(Word)} : 0;
    return threads * block * (kPanel * int64_t{sizeof(float)} + copies);
  }

  const InputWords& main() const { return main_; }
  const InputWords& tail() const { return tail_; }
  /// The words of one range: weights [outputs][range.inputs].
  template <class S>
  void pack(const InputWords& range, const WeightRows<S>& weights, int64_t panel,
            char* packed) const;
  void run(const CpuLinearRun& run, const Parallel& parallel) const;

 private:
  static constexpr int64_t kStrip = 128;  // words of depth
  static constexpr int64_t kBlockBytes = 1 << 20;  // of x per task
  static constexpr int64_t kFewestRows = 96, kMostRows = 192;  // per task

  /// Whether rows are copied whatever their stride.
  bool copied() const { return kWidened || tail_.words > 0 || main_.inputs % kWord != 0; }
  /// Whether rows can be read as words where they lie.
  bool in_place(const CpuLinearRun& run) const { return !copied() && run.x_stride % kWord == 0; }
  int64_t rows_per_task(int64_t rows, int threads) const;
  void copy_rows(const CpuLinearRun& run, int64_t first, int64_t count, Word* to) const;
  void multiply(const Word* x, int64_t stride, int64_t rows, const char* panel, float* sums) const;
  void finish(const CpuLinearRun& run, int64_t first, int64_t rows, int64_t panel,
              const float* sums) const;
  void copy_range(const InputWords& range, const T* x, int64_t stride, int64_t count,
                  Word* to) const;

  int64_t outputs_;
  InputWords main_, tail_;
  int64_t words_;
  CpuEpilogue epilogue_;
  bool gated_;
  int64_t columns_;  // of y
};

template <class T>
template <class S>
void LinearKernel<T>::pack(const InputWords& range, const WeightRows<S>& weights, int64_t panel,
                           char* packed) const {
  constexpr int64_t kDepth = 64;
  alignas(64) float columns[kDepth * kPanel];
  char* out = packed + panel * panel_bytes() + range.first * kPanel * kStored;
  const int64_t part = gated_ ? kPanel / 2 : kPanel, first = panel * part;
  const int64_t present = max64(0, min64(part, columns_ - first));
  const S* const values = weights.rows(first, present);
  const S* const gates = gated_ ? weights.rows(columns_ + first, present, part) : values;
  for (int64_t k = 0; k < range.words * kWord; k += kDepth) {
    // Values and gates come from two places; read_columns() is for one, so it is called per vector.
    for (int64_t column = 0; column < kPanel; column += kLanes) {
      const bool gate = gated_ && column >= part;
      const int64_t output = column - (gate ? part : 0);
      alignas(64) float vectors[kDepth * kLanes];
      read_columns((gate ? gates : values) + output * range.inputs, range.inputs, present - output,
                   k, kDepth, kLanes, vectors);
      for (int64_t i = 0; i < kDepth; ++i) {
        store(columns + i * kPanel + column, load_aligned(vectors + i * kLanes));
      }
    }
    for (int64_t i = 0; i < min64(kDepth, range.words * kWord - k); i += kWord) {
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

// Enough rows to make a panel's strip worth reading, few enough to stay in the second cache.
template <class T>
int64_t LinearKernel<T>::rows_per_task(int64_t rows, int threads) const {
  const int64_t fitting = kBlockBytes / (words_ * int64_t{sizeof(Word)});
  const int64_t most = round_up(max64(kFewestRows, min64(kMostRows, fitting)), kLinearRows);
  int64_t tasks = divide_up(rows, most);
  if (tasks > threads) tasks = round_up(tasks, threads);
  return round_up(divide_up(rows, tasks), kLinearRows);
}

// Rows [first, first + count) as words, zero past the last input.
template <class T>
void LinearKernel<T>::copy_rows(const CpuLinearRun& run, int64_t first, int64_t count,
                                Word* to) const {
  copy_range(main_, static_cast<const T*>(run.x) + first * run.x_stride, run.x_stride, count, to);
  if (tail_.words == 0) return;
  copy_range(tail_, static_cast<const T*>(run.tail) + first * run.tail_stride, run.tail_stride,
             count, to);
}

template <class T>
void LinearKernel<T>::copy_range(const InputWords& range, const T* x, int64_t stride, int64_t count,
                                 Word* to) const {
  to += range.first;
  for (int64_t row = 0; row < count; ++row, x += stride, to += words_) {
    for (int64_t w = 0; w < range.words; w += kLanes) {
      store_raw(to + w, load_words(x + w * kWord, range.inputs - w * kWord), range.words - w);
    }
  }
}

// sums [rows][kPanel] = x times one panel; rows past the last repeat it.
template <class T>
void LinearKernel<T>::multiply(const Word* x, int64_t stride, int64_t rows, const char* panel,
                               float* sums) const {
  for (int64_t w0 = 0; w0 < words_; w0 += kStrip) {
    const int64_t n = min64(kStrip, words_ - w0);
    for (int64_t row = 0; row < rows; row += kLinearRows) {
      const Word* a[kLinearRows];
      ATELIER_UNROLL for (int r = 0; r < kLinearRows; ++r) {
        a[r] = x + min64(row + r, rows - 1) * stride + w0;
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
            s[r][c] = dot<T>(s[r][c], weights[c], a[r] + w);
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

template <class T>
void LinearKernel<T>::finish(const CpuLinearRun& run, int64_t first, int64_t rows, int64_t panel,
                             const float* sums) const {
  const int64_t part = gated_ ? kPanel / 2 : kPanel, begin = panel * part;
  for (int64_t column = 0; column < min64(part, columns_ - begin); column += kLanes) {
    const Lanes lanes = first_lanes(columns_ - begin - column);
    const float* bias = run.bias + begin + column;
    const Vec added = run.bias == nullptr ? zero() : load(bias, lanes);
    const Vec gate_added = run.bias == nullptr || !gated_ ? zero() : load(bias + columns_, lanes);
    T* y = static_cast<T*>(run.y) + first * run.y_stride + begin + column;
    for (int64_t row = 0; row < rows; ++row, y += run.y_stride) {
      const float* sum = sums + row * kPanel + column;
      Vec value = with_epilogue<T>(epilogue_, add(load_aligned(sum), added));
      if (gated_) {
        value = mul(value, gelu<kPrecision<T>>(add(load_aligned(sum + part), gate_added)));
      }
      store(y, run.accumulate ? add(value, load(y, lanes)) : value, lanes);
    }
  }
}

template <class T>
void LinearKernel<T>::run(const CpuLinearRun& run, const Parallel& parallel) const {
  const int64_t block = rows_per_task(run.rows, parallel.threads());
  const int64_t row_tasks = divide_up(run.rows, block);
  const int64_t wanted = parallel.threads() == 1 ? 1 : divide_up(2 * parallel.threads(), row_tasks);
  const int64_t panel_tasks = min64(panels(), wanted);
  parallel_for(parallel, row_tasks * panel_tasks, [&](int64_t begin, int64_t end) {
    const Scratch sums(block * kPanel * int64_t{sizeof(float)});
    const Scratch copies(in_place(run) ? 64 : block * words_ * int64_t{sizeof(Word)});
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / panel_tasks * block, part = task % panel_tasks;
      const int64_t rows = min64(block, run.rows - first);
      const Word* x = static_cast<const Word*>(copies.data());
      int64_t stride = words_;
      if (in_place(run)) {
        stride = run.x_stride / kWord;
        x = static_cast<const Word*>(run.x) + first * stride;
      } else {
        copy_rows(run, first, rows, static_cast<Word*>(copies.data()));
      }
      const int64_t last = panels() * (part + 1) / panel_tasks;
      for (int64_t panel = panels() * part / panel_tasks; panel < last; ++panel) {
        const char* packed = static_cast<const char*>(run.packed) + panel * panel_bytes();
        multiply(x, stride, rows, packed, static_cast<float*>(sums.data()));
        finish(run, first, rows, panel, static_cast<const float*>(sums.data()));
      }
    }
  });
}

/// Calls body(LinearKernel<T>) for the layer's type.
template <class F>
auto with_linear(const CpuLinear& layer, const F& body) {
  return layer.type == CpuType::fp32 ? body(LinearKernel<float>(layer))
                                     : body(LinearKernel<Bf16>(layer));
}

bool linear_supported(const CpuLinear& layer) {
  return layer.epilogue != CpuEpilogue::geglu || layer.outputs % 2 == 0;
}
int64_t linear_weight_bytes(const CpuLinear& layer) {
  return with_linear(layer, [](const auto& kernel) { return kernel.weight_bytes(); });
}
int64_t linear_scratch_bytes(const CpuLinear& layer, int64_t rows, int threads) {
  return with_linear(layer,
                     [=](const auto& kernel) { return kernel.scratch_bytes(rows, threads); });
}
template <class T>
void pack_range(const LinearKernel<T>& kernel, const InputWords& range, const CpuWeights& weights,
                void* packed, const Parallel& parallel) {
  for_weights(weights, range.inputs, kPanel, kernel.panels(), parallel,
              [&](const auto& rows, int64_t panel) {
                kernel.pack(range, rows, panel, static_cast<char*>(packed));
              });
}
void pack_linear(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                 const Parallel& parallel) {
  with_linear(layer, [&](const auto& kernel) {
    pack_range(kernel, kernel.main(), weights, packed, parallel);
  });
}
void pack_linear_tail(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                      const Parallel& parallel) {
  with_linear(layer, [&](const auto& kernel) {
    pack_range(kernel, kernel.tail(), weights, packed, parallel);
  });
}
void linear(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  with_linear(layer, [&](const auto& kernel) { kernel.run(run, parallel); });
}

}  // namespace
}  // namespace atelier
