// The rows of an AMX linear layer as its tiles read them, and the inputs of its tail.
#pragma once

#include "device/cpu/x86/amx/linear_packing.h"
#include "device/cpu/x86/simd/quantise.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int64_t kCopiedSteps = 16;  // of all rows of a block before the next
constexpr int64_t kMostBlocks = 32;  // per task

/// Copies steps [begin, end) of a range of up to 32 rows as tiles [step][part][2 halves][16][32];
/// the rest and what a row lacks to whole tiles become zero. Read where they lie, rows would be
/// spread over as many pages, and multiplying would wait for their addresses.
template <class T>
void copy_range(const InputRange& range, int64_t begin, int64_t end, const T* x, int64_t stride,
                int64_t present, char* to) {
  to += range.first_step * kStepBytes<T>;
  for (int64_t from = begin; from < end; from += kCopiedSteps) {
    const int64_t to_step = min64(from + kCopiedSteps, end);
    for (int64_t row = 0; row < kBlockRows; ++row) {
      const T* const numbers = x + row * stride;
      char* const at = to + row / 16 * kTileBytes + row % 16 * kTileWidth * 2;
      for (int64_t step = from; step < to_step; ++step) {
        const int64_t k = step * kTileWidth, left = row < present ? range.inputs - k : 0;
        __m512i parts[kParts<T>];
        if constexpr (kParts<T> == 1) {
          parts[0] = load_words(numbers + k, left);
        } else {
          split<T>(numbers + (left > 0 ? k : 0), left, parts);
        }
        for (int part = 0; part < kParts<T>; ++part) {
          _mm512_store_si512(at + step * kStepBytes<T> + part * 2 * kTileBytes, parts[part]);
        }
      }
    }
  }
}

/// The same of rows as 8-bit integers, whose scales go to `scales`.
template <class T>
void quantise_rows(const CpuLinearRun& run, const LinearShape& shape, int64_t first, char* to,
                   float* scales) {
  const int64_t present = min64(kBlockRows, run.rows - first);
  const T* x = static_cast<const T*>(run.x) + first * run.x_stride;
  for (int64_t row = 0; row < kBlockRows; ++row, x += run.x_stride) {
    char* const at = to + row / 16 * kTileBytes + row % 16 * kTileRowBytes;
    const auto place = [&](int64_t step) { return at + step * kStepBytes<Quantised<T>>; };
    scales[row] = 0;
    if (row < present) {
      scales[row] = quantise_row(x, shape.main.inputs, 0, [&](int64_t step, Words bytes) {
        _mm512_store_si512(place(step), bytes);
      });
      continue;
    }
    for (int64_t step = 0; step < shape.steps; ++step) {
      _mm512_store_si512(place(step), _mm512_setzero_si512());
    }
  }
}

template <class N>
int64_t block_bytes(const LinearShape& shape) {
  return shape.row_steps * kStepBytes<N>;
}

/// Some blocks of rows, copied to where products read them.
template <class N>
class LinearRows {
 public:
  using T = Stored<N>;
  /// Rows of `run` from block `first` on.
  LinearRows(const LinearShape& shape, const CpuLinearRun& run, int64_t first, char* memory)
      : shape_(shape), run_(run), first_(first), memory_(memory) {}

  const RowBlock& operator[](int64_t place) const { return blocks_[place]; }
  /// Blocks [0, count) at their own places, whether they are copied already or not.
  const RowBlock* blocks(int64_t count) {
    for (int64_t i = 0; i < count; ++i) set(i, i);
    return blocks_;
  }
  char* at(int64_t place) const { return memory_ + place * block_bytes<N>(shape_); }
  int64_t present(int64_t index) const {
    return min64(kBlockRows, run_.rows - (first_ + index) * kBlockRows);
  }

  /// Block `index` whole, without a tail, to place `place`.
  void copy(int64_t index, int64_t place) {
    set(index, place);
    if constexpr (kQuantised<N>) {
      quantise_rows<T>(run_, shape_, (first_ + index) * kBlockRows, at(place),
                       blocks_[place].scales);
    } else {
      copy_main(index, place, 0, shape_.main.steps);
    }
  }
  /// Steps [begin, end) of blocks [0, count), as far as they are not the tail's.
  void copy_steps(int64_t count, int64_t begin, int64_t end) {
    for (int64_t i = 0; i < count; ++i) copy_main(i, i, begin, min64(end, shape_.main.steps));
  }

 private:
  void set(int64_t index, int64_t place) {
    RowBlock& block = blocks_[place];
    block.a = at(place);
    block.a_half = kTileBytes;
    block.bias = run_.bias;
    for (int64_t row = 0; row < kBlockRows; ++row) {
      const bool exists = row < present(index);
      block.out[row] = exists ? ((first_ + index) * kBlockRows + row) * run_.y_stride : -1;
    }
  }
  void copy_main(int64_t index, int64_t place, int64_t begin, int64_t end) {
    const T* x = static_cast<const T*>(run_.x) + (first_ + index) * kBlockRows * run_.x_stride;
    copy_range(shape_.main, begin, end, x, run_.x_stride, present(index), at(place));
  }

  const LinearShape& shape_;
  const CpuLinearRun& run_;
  int64_t first_;
  char* memory_;
  RowBlock blocks_[kMostBlocks];
};

/// The inputs that a layer's tail has for some blocks of rows: their product with `down`.
template <class N>
class LinearTail {
 public:
  using T = Stored<N>;
  static int64_t bytes(const LinearShape& shape, int64_t blocks) {
    const int64_t numbers = kBlockRows * shape.tail.inputs;
    return blocks * (shape.tail_panels() * kSumBytes + numbers * int64_t{sizeof(T)});
  }
  LinearTail(const LinearShape& shape, const CpuLinearRun& run, const LinearRows<N>& rows,
             const Depth& depth, int64_t count, char* memory)
      : shape_(shape),
        rows_(rows),
        count_(count),
        sums_(memory),
        t_(reinterpret_cast<T*>(memory + count * shape.tail_panels() * kSumBytes)),
        products_(main_of(depth, shape), static_cast<const char*>(run.down),
                  {t_, shape.tail.inputs, false}) {
    if (shape.tail.steps == 0) return;
    for (int64_t i = 0; i < count; ++i) {
      blocks_[i].a = rows.at(i);
      blocks_[i].a_half = kTileBytes;
      blocks_[i].bias = nullptr;
      for (int64_t row = 0; row < kBlockRows; ++row) {
        blocks_[i].out[row] =
            row < rows.present(i) ? (i * kBlockRows + row) * shape.tail.inputs : -1;
      }
    }
  }

  /// Brings what `run` will read of `down` into the second cache.
  void fetch(int64_t begin, int64_t end) const {
    end = min64(end, shape_.main.steps);
    for (int64_t panel = 0; panel < shape_.tail_panels(); ++panel) {
      const char* const first = products_.panel(panel);
      for (int64_t at = begin * kStepBytes<N>; at < end * kStepBytes<N>; at += 64) {
        _mm_prefetch(first + at, _MM_HINT_T1);
      }
    }
  }

  /// Takes steps [begin, end) of the rows, which follow those of the call before. After the rows'
  /// last ones, the tail's inputs lie copied behind them. No other product may be under way.
  void run(int64_t begin, int64_t end) {
    if (begin >= shape_.main.steps) return;
    end = min64(end, shape_.main.steps);
    for (int64_t i = 0; i < count_; ++i) {
      for (int64_t panel = 0; panel < shape_.tail_panels(); ++panel) {
        products_.run(blocks_[i], panel, begin, end, sums_ + (panel * count_ + i) * kSumBytes,
                      nullptr, nullptr);
      }
    }
    products_.finish();
    if (end < shape_.main.steps) return;
    const int64_t width = shape_.tail.inputs;
    for (int64_t i = 0; i < count_; ++i) {
      copy_range(shape_.tail, 0, shape_.tail.steps, t_ + i * kBlockRows * width, width,
                 rows_.present(i), rows_.at(i));
    }
  }

 private:
  static Depth main_of(Depth main, const LinearShape& shape) {
    main.steps = shape.main.steps;
    main.windows = nullptr;
    return main;
  }

  const LinearShape& shape_;
  const LinearRows<N>& rows_;
  int64_t count_;
  char* sums_;
  T* t_;
  PanelProducts<CpuEpilogue::plain, N> products_;
  RowBlock blocks_[kMostBlocks];
};

}  // namespace tiled
}  // namespace
}  // namespace atelier
