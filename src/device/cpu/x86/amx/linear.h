// Linear layers on AMX tiles, bf16 or fp32, or as 8-bit integers (gemm.h).
//
// Shallow layers walk along the rows, so that neighbouring columns of y are written one after
// another, with a group of panels in the second cache. Deep layers keep a chunk of many blocks of
// rows there while the panels pass by.
#pragma once

#include "device/cpu/x86/amx/linear_packing.h"
#include "device/cpu/x86/simd/quantise.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int64_t kRowBytes = 1000 << 10;  // of a chunk of the rows per task
constexpr int64_t kPanelBytes = 768 << 10;  // of panels a shallow layer passes along a row
constexpr int64_t kShallow = 24;  // steps up to which a layer is shallow
constexpr int64_t kMostBlocks = 32;  // per task
constexpr int64_t kCopiedSteps = 16;  // of all rows of a block before the next
constexpr int64_t kSplitBlocks = 16;  // per task where rows are split into parts

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

/// The cut of a layer into tasks: blocks of rows, and ranges of panels where that makes threads
/// end together.
template <class N>
struct LinearTasks {
  int64_t row_blocks, blocks_per_task, row_tasks, panel_tasks;
  LinearTasks(const LinearShape& shape, int64_t rows, int threads) {
    // The tail's inputs are computed once for each range of panels.
    const int64_t tasks_per_thread = shape.tail.steps > 0 ? 1 : 2;
    row_blocks = divide_up(rows, kBlockRows);
    if constexpr (kParts<N> == 1) {
      const int64_t chunk = divide_up(shape.steps, PanelWalk<N>(shape.steps, 1, true).chunks);
      const int64_t fitting = kRowBytes / (chunk * kStepBytes<N>);
      row_tasks = divide_up(row_blocks, max64(2, min64(kMostBlocks, fitting)));
      if constexpr (kQuantised<N>) {
        // Rows are rounded once for each range of panels: rather cut them than the panels.
        row_tasks = max64(row_tasks, min64(threads * tasks_per_thread, row_blocks / 2));
      }
    } else {
      // Splitting rows costs too much to do it once for each range of panels, unless they are few.
      row_tasks = max64(divide_up(row_blocks, kSplitBlocks),
                        min64(threads, row_blocks / (kSplitBlocks / 2)));
    }
    blocks_per_task = divide_up(row_blocks, row_tasks);
    row_tasks = divide_up(row_blocks, blocks_per_task);
    panel_tasks = threads == 1 || (kParts<N> > 1 && row_tasks >= threads)
                      ? 1
                      : divide_up(threads * tasks_per_thread, row_tasks);
    if (kParts<N> == 1 && threads > 1) even_out(shape, threads);
    panel_tasks = min64(panel_tasks, shape.panels);
  }

 private:
  /// Looks for more ranges of panels with which the last task ends earlier, though every range
  /// copies its rows, which takes about as long as kCopy panels, and computes their tail.
  void even_out(const LinearShape& shape, int threads) {
    constexpr int64_t kCopy = 3;
    const auto time = [&](int64_t ranges) {
      return divide_up(row_tasks * ranges, threads) *
             (divide_up(shape.panels, ranges) + kCopy + shape.tail_panels());
    };
    const int64_t fewest = panel_tasks;
    for (int64_t ranges = fewest; ranges < fewest + threads; ++ranges) {
      if (time(ranges) < time(panel_tasks)) panel_tasks = ranges;
    }
  }
};

template <class N>
int64_t block_bytes(const LinearShape& shape) {
  return shape.steps * kStepBytes<N>;
}

template <class N>
int64_t panels_bytes(const LinearShape& shape) {
  return shape.panels * shape.steps * kStepBytes<N>;
}

/// The scales of quantised outputs, which follow the panels; otherwise nullptr.
template <class N>
const float* scales_of(const LinearShape& shape, const void* packed) {
  if constexpr (!kQuantised<N>) return nullptr;
  return reinterpret_cast<const float*>(static_cast<const char*>(packed) + panels_bytes<N>(shape));
}

/// Working memory of one task: copied rows, sums, the depth's steps, and the tail's inputs.
template <class N>
struct LinearMemory {
  int64_t copies, sums, steps, tails;  // bytes of each part
  LinearMemory(const LinearShape& shape, const LinearTasks<N>& tasks)
      : copies(max64(2, tasks.blocks_per_task) * block_bytes<N>(shape)),
        sums(max64(walk(shape, tasks.blocks_per_task).sum_bytes(tasks.blocks_per_task),
                   tasks.blocks_per_task * shape.tail_panels() * kSumBytes)),
        steps(shape.steps * DepthSteps<N>::kBytes),
        tails(tasks.blocks_per_task * kBlockRows * shape.tail.inputs * int64_t{sizeof(Stored<N>)}) {
  }
  int64_t bytes() const { return copies + sums + steps + tails; }
  static PanelWalk<N> walk(const LinearShape& shape, int64_t count) {
    return {shape.steps, count, true};
  }
};

/// Brings `bytes` from `p` on into the second cache.
ATELIER_INLINE void fetch(const char* p, int64_t bytes) {
  for (const char* const end = p + bytes; p < end; p += 64) _mm_prefetch(p, _MM_HINT_T1);
}

/// Some blocks of rows, copied one after another to where products read them.
template <class N>
class LinearRows {
 public:
  using T = Stored<N>;
  /// Rows of `run` from block `first` on.
  LinearRows(const LinearShape& shape, const CpuLinearRun& run, int64_t first, char* memory)
      : shape_(shape), run_(run), first_(first), memory_(memory) {}

  const RowBlock& operator[](int64_t place) const { return blocks_[place]; }
  const RowBlock* blocks() const { return blocks_; }

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

  /// Blocks [0, count) with their tails, which are computed on the way, while what is copied is in
  /// the second cache.
  void copy_all(int64_t count, const DepthSteps<N>& depth, char* sums, char* tails) {
    if constexpr (!kQuantised<N>) {
      if (shape_.tail.steps > 0) return copy_with_tails(count, depth, sums, tails);
    }
    for (int64_t i = 0; i < count; ++i) copy(i, i);
  }

 private:
  char* at(int64_t place) const { return memory_ + place * block_bytes<N>(shape_); }
  int64_t present(int64_t index) const {
    return min64(kBlockRows, run_.rows - (first_ + index) * kBlockRows);
  }
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
  void copy_with_tails(int64_t count, const DepthSteps<N>& depth, char* sums, char* tails) {
    const int64_t width = shape_.tail.inputs, steps = shape_.main.steps;
    T* const t = reinterpret_cast<T*>(tails);
    Depth main = depth.depth(kTileWidth * 2);
    main.steps = steps;
    PanelProducts<CpuEpilogue::plain, N> products(main, static_cast<const char*>(run_.down),
                                                  {t, width, false});
    RowBlock downs[kMostBlocks];
    for (int64_t i = 0; i < count; ++i) {
      set(i, i);
      downs[i].a = at(i);
      downs[i].a_half = kTileBytes;
      downs[i].bias = nullptr;
      for (int64_t row = 0; row < kBlockRows; ++row) {
        downs[i].out[row] = row < present(i) ? (i * kBlockRows + row) * width : -1;
      }
    }
    const int64_t chunks = PanelWalk<N>(steps, count, true).chunks, panels = shape_.tail_panels();
    const auto first_of = [&](int64_t chunk) { return steps * chunk / chunks; };
    for (int64_t panel = 0; panel < panels; ++panel) {
      fetch(products.panel(panel), first_of(1) * kStepBytes<N>);
    }
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int64_t begin = first_of(chunk), end = first_of(chunk + 1);
      // While a chunk is multiplied, the panels' next one is brought near.
      const int64_t next = end * kStepBytes<N>;
      const int64_t lines =
          chunk + 1 < chunks ? (first_of(chunk + 2) - end) * kStepBytes<N> / 64 : 0;
      for (int64_t i = 0; i < count; ++i) copy_main(i, i, begin, end);
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t panel = 0; panel < panels; ++panel) {
          const char* const from = products.panel(panel) + next;
          products.run(downs[i], panel, begin, end, sums + (panel * count + i) * kSumBytes,
                       from + lines * i / count * 64, from + lines * (i + 1) / count * 64);
        }
      }
    }
    products.finish();
    for (int64_t i = 0; i < count; ++i) {
      copy_range(shape_.tail, 0, shape_.tail.steps, t + i * kBlockRows * width, width, present(i),
                 at(i));
    }
  }

  const LinearShape& shape_;
  const CpuLinearRun& run_;
  int64_t first_;
  char* memory_;
  RowBlock blocks_[kMostBlocks];
};

/// `count` blocks of rows and panels [first, last) of a shallow layer. Rows lie copied already
/// (`kept`), or are copied for each group of panels.
template <CpuEpilogue epilogue, class N>
void run_along_rows(const LinearShape& shape, LinearRows<N>& rows, bool kept,
                    PanelProducts<epilogue, N>& products, int64_t count, int64_t first,
                    int64_t last, char* sums) {
  const int64_t group = max64(1, kPanelBytes / block_bytes<N>(shape));
  int64_t turn = 0;
  for (int64_t from = first; from < last; from += group) {
    const int64_t to = min64(from + group, last);
    for (int64_t i = 0; i < count; ++i, turn ^= 1) {
      // Two places take turns, as the one before may still be written from.
      const int64_t place = kept ? i : turn;
      if (!kept) rows.copy(i, place);
      for (int64_t panel = from; panel < to; ++panel) {
        products.run(rows[place], panel, 0, shape.steps, sums, nullptr, nullptr);
      }
    }
  }
  products.finish();
}

/// Ranges [part, parts_end) of panels for one of the tasks that rows are cut into.
template <CpuEpilogue epilogue, class N>
void run_linear_task(const LinearShape& shape, const LinearTasks<N>& tasks, const CpuLinearRun& run,
                     int64_t rows_task, int64_t part, int64_t parts_end, char* memory) {
  const int64_t first_block = rows_task * tasks.blocks_per_task;
  const int64_t count = min64(tasks.blocks_per_task, tasks.row_blocks - first_block);
  const int64_t first = shape.panels * part / tasks.panel_tasks;
  const int64_t last = shape.panels * parts_end / tasks.panel_tasks;
  const LinearMemory<N> parts(shape, tasks);
  char* const sums = memory + parts.copies;
  DepthSteps<N> depth(sums + parts.sums, shape.steps);
  for (int64_t step = 0; step < shape.steps; ++step) {
    depth.set(step, step * kStepBytes<N>, 2 * kTileBytes);
  }
  PanelProducts<epilogue, N> products(depth.depth(kTileWidth * 2),
                                      static_cast<const char*>(run.packed),
                                      {static_cast<Stored<N>*>(run.y), shape.columns,
                                       run.accumulate, scales_of<N>(shape, run.packed)});
  LinearRows<N> rows(shape, run, first_block, memory);
  const bool shallow = kParts<N> == 1 && shape.steps <= kShallow;
  // Quantised rows and tails take longer to make than to read again.
  const bool kept = !shallow || kQuantised<N> || shape.tail.steps > 0;
  if (kept) rows.copy_all(count, depth, sums, sums + parts.sums + parts.steps);
  if (shallow) return run_along_rows(shape, rows, kept, products, count, first, last, sums);
  multiply_panels(products, LinearMemory<N>::walk(shape, count), rows.blocks(), count, first, last,
                  sums);
}

template <CpuEpilogue epilogue, class N>
void run_linear_as(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  const LinearShape shape(layer, kStepDepth<N>);
  const LinearTasks<N> tasks(shape, run.rows, parallel.threads());
  const LinearMemory<N> parts(shape, tasks);
  parallel_for(parallel, tasks.row_tasks * tasks.panel_tasks, [&](int64_t begin, int64_t end) {
    const TileScope tiles;
    const Scratch memory(parts.bytes());
    // Ranges of panels that follow one another with the same rows are one, so that rows are copied
    // and their tails computed once.
    for (int64_t i = begin; i < end;) {
      const int64_t rows_task = i / tasks.panel_tasks, all = rows_task * tasks.panel_tasks;
      const int64_t parts_end = min64(tasks.panel_tasks, end - all);
      run_linear_task<epilogue, N>(shape, tasks, run, rows_task, i - all, parts_end,
                                   static_cast<char*>(memory.data()));
      i = all + parts_end;
    }
  });
}

/// Calls body(T{}) for the layer's type.
template <class F>
auto with_type(CpuType type, const F& body) {
  return type == CpuType::fp32 ? body(float{}) : body(Bf16{});
}

int64_t linear_scratch_bytes(const CpuLinear& layer, int64_t rows, int threads) {
  return with_type(layer.type, [&](auto number) {
    using T = decltype(number);
    const LinearShape shape(layer);
    const LinearTasks<T> tasks(shape, rows, threads);
    return threads * LinearMemory<T>(shape, tasks).bytes();
  });
}
bool linear_supported(const CpuLinear& layer) {
  return layer.epilogue != CpuEpilogue::geglu || layer.outputs % 2 == 0;
}
int64_t linear_weight_bytes(const CpuLinear& layer) {
  const LinearShape shape(layer);
  return with_type(layer.type, [&](auto number) { return panels_bytes<decltype(number)>(shape); });
}
void pack_range(const CpuLinear& layer, const LinearShape& shape, const InputRange& range,
                const CpuWeights& weights, void* packed, const Parallel& parallel) {
  with_type(layer.type, [&](auto number) {
    for_weights(weights, range.inputs, 16, shape.panels, parallel,
                [&](const auto& rows, int64_t panel) {
                  pack_linear_panel<decltype(number)>(shape, range, rows, panel,
                                                      static_cast<char*>(packed));
                });
  });
}
void pack_linear(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                 const Parallel& parallel) {
  const LinearShape shape(layer);
  pack_range(layer, shape, shape.main, weights, packed, parallel);
}
void pack_linear_tail(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                      const Parallel& parallel) {
  const LinearShape shape(layer);
  pack_range(layer, shape, shape.tail, weights, packed, parallel);
}
/// Calls body with the epilogue as a constant.
template <class F>
void with_constant(CpuEpilogue epilogue, const F& body) {
  switch (epilogue) {
    case CpuEpilogue::plain:
      return body.template operator()<CpuEpilogue::plain>();
    case CpuEpilogue::gelu:
      return body.template operator()<CpuEpilogue::gelu>();
    case CpuEpilogue::gelu_tanh:
      return body.template operator()<CpuEpilogue::gelu_tanh>();
    case CpuEpilogue::quick_gelu:
      return body.template operator()<CpuEpilogue::quick_gelu>();
    case CpuEpilogue::silu:
      return body.template operator()<CpuEpilogue::silu>();
    case CpuEpilogue::geglu:
      return body.template operator()<CpuEpilogue::geglu>();
  }
}
void linear(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  with_constant(layer.epilogue, [&]<CpuEpilogue epilogue>() {
    with_type(layer.type, [&](auto number) {
      run_linear_as<epilogue, decltype(number)>(layer, run, parallel);
    });
  });
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
