// Linear layers on AMX tiles, bf16 or fp32, or as 8-bit integers (gemm.h).
//
// Shallow layers walk along the rows, so that neighbouring columns of y are written one after
// another, with a group of panels in the second cache. Deep layers keep many blocks of rows there
// while the panels pass by.
#pragma once

#include "device/cpu/x86/amx/gemm.h"
#include "device/cpu/x86/simd/quantise.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int64_t kRowBytes = 768 << 10;  // of rows per task
constexpr int64_t kPanelBytes = 768 << 10;  // of panels a shallow layer passes along a row
constexpr int64_t kShallow = 24;  // steps up to which a layer is shallow
constexpr int64_t kMostBlocks = 32;  // per task
constexpr int64_t kSplitBlocks = 16;  // per task where rows are split into parts

/// A run of inputs and the steps of depth they fill.
struct InputRange {
  int64_t inputs, first_step, steps;
};

/// How a layer's columns are packed: a panel of a gated layer has 16 columns and their 16 gates.
struct LinearShape {
  int64_t outputs, steps, panels, columns;
  InputRange main, tail;
  bool gated;
  explicit LinearShape(const CpuLinear& layer, int64_t step_depth = kTileWidth)
      : outputs(layer.outputs),
        steps(divide_up(layer.inputs, step_depth) + divide_up(layer.tail, step_depth)),
        main{layer.inputs, 0, divide_up(layer.inputs, step_depth)},
        tail{layer.tail, main.steps, steps - main.steps},
        gated(layer.epilogue == CpuEpilogue::geglu) {
    columns = gated ? outputs / 2 : outputs;
    panels = divide_up(columns, gated ? 16 : kPanelColumns);
  }
  /// The output that column `i` of tile `tile` of a panel computes, and how many from it on exist.
  int64_t output(int64_t panel, int64_t tile) const {
    return gated ? tile * columns + panel * 16 : panel * kPanelColumns + tile * 16;
  }
  int64_t present(int64_t panel, int64_t tile) const {
    const int64_t end = gated ? (tile + 1) * columns : outputs;
    return max64(0, min64(16, end - output(panel, tile)));
  }
};

/// The steps of one range: weights [outputs][range.inputs].
template <class T, class S>
void pack_linear_panel(const LinearShape& shape, const InputRange& range,
                       const WeightRows<S>& weights, int64_t panel, char* packed) {
  for (int64_t tile = 0; tile < 2; ++tile) {
    const int64_t present = shape.present(panel, tile);
    const S* const first = weights.rows(present > 0 ? shape.output(panel, tile) : 0, present);
    char* out = packed + (panel * shape.steps + range.first_step) * kStepBytes<T>;
    for (int64_t step = 0; step < range.steps; ++step, out += kStepBytes<T>) {
      __m512i rows[kParts<T>][16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t left = i < present ? range.inputs - step * kTileWidth : 0;
        const S* row = first + (i < present ? i * range.inputs : 0);
        __m512i parts[kParts<T>];
        split<T>(row + (left > 0 ? step * kTileWidth : 0), left, parts);
        for (int part = 0; part < kParts<T>; ++part) rows[part][i] = parts[part];
      }
      for (int part = 0; part < kParts<T>; ++part) {
        store_tile(rows[part], out + (part * 2 + tile) * kTileBytes);
      }
    }
  }
}

/// Copies up to 32 rows from `first` on as tiles [step][part][2 halves][16][32]; the rest and what
/// a row lacks to whole tiles become zero. Read where they lie, rows would be spread over as many
/// pages, and multiplying would wait for their addresses.
template <class T>
void copy_range(const InputRange& range, const T* x, int64_t stride, int64_t present, char* to) {
  to += range.first_step * kStepBytes<T>;
  for (int64_t row = 0; row < kBlockRows; ++row, x += stride) {
    char* at = to + row / 16 * kTileBytes + row % 16 * kTileWidth * 2;
    for (int64_t step = 0; step < range.steps; ++step, at += kStepBytes<T>) {
      const int64_t k = step * kTileWidth, left = row < present ? range.inputs - k : 0;
      __m512i parts[kParts<T>];
      if constexpr (kParts<T> == 1) {
        parts[0] = load_words(x + k, left);
      } else {
        split<T>(x + (left > 0 ? k : 0), left, parts);
      }
      for (int part = 0; part < kParts<T>; ++part) {
        _mm512_store_si512(at + part * 2 * kTileBytes, parts[part]);
      }
    }
  }
}

template <class T>
void copy_rows(const CpuLinearRun& run, const LinearShape& shape, int64_t first, char* to) {
  const int64_t present = min64(kBlockRows, run.rows - first);
  copy_range(shape.main, static_cast<const T*>(run.x) + first * run.x_stride, run.x_stride, present,
             to);
  if (shape.tail.steps == 0) return;
  copy_range(shape.tail, static_cast<const T*>(run.tail) + first * run.tail_stride, run.tail_stride,
             present, to);
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

/// The cut of a layer into tasks: blocks of rows, and ranges of panels where rows are few.
template <class N>
struct LinearTasks {
  int64_t row_blocks, blocks_per_task, row_tasks, panel_tasks;
  LinearTasks(const LinearShape& shape, int64_t rows, int threads) {
    constexpr int64_t kTasksPerThread = 2;
    row_blocks = divide_up(rows, kBlockRows);
    if constexpr (kParts<N> == 1) {
      const int64_t fitting = kRowBytes / (shape.steps * kStepBytes<N>);
      row_tasks = divide_up(row_blocks, max64(2, min64(kMostBlocks, fitting)));
      if constexpr (kQuantised<N>) {
        // Rows are rounded once for each range of panels: rather cut them than the panels.
        row_tasks = max64(row_tasks, min64(threads * kTasksPerThread, row_blocks / 2));
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
                      : divide_up(threads * kTasksPerThread, row_tasks);
    panel_tasks = min64(panel_tasks, shape.panels);
  }
};

template <class N>
int64_t block_bytes(const LinearShape& shape) {
  return shape.steps * kStepBytes<N>;
}

/// Sets up block `index` of the rows in `memory`, block_bytes() long.
template <class N>
void prepare_block(const LinearShape& shape, const CpuLinearRun& run, int64_t index, char* memory,
                   RowBlock& block) {
  const int64_t first = index * kBlockRows;
  if constexpr (kQuantised<N>) {
    quantise_rows<Stored<N>>(run, shape, first, memory, block.scales);
  } else {
    copy_rows<N>(run, shape, first, memory);
  }
  block.a = memory;
  block.a_half = kTileBytes;
  block.bias = run.bias;
  for (int64_t row = 0; row < kBlockRows; ++row) {
    block.out[row] = first + row < run.rows ? (first + row) * run.y_stride : -1;
  }
}

/// Row blocks [begin, end) and panels [first, last) of a shallow layer.
template <CpuEpilogue epilogue, class N>
void run_along_rows(const LinearShape& shape, const CpuLinearRun& run,
                    PanelProducts<epilogue, N>& products, int64_t begin, int64_t end, int64_t first,
                    int64_t last, char* memory, char* sums) {
  const int64_t group = max64(1, kPanelBytes / block_bytes<N>(shape));
  // Taken in turns, as the one before may still be written from; quantised ones are kept for all
  // groups, as making them takes longer.
  RowBlock blocks[kQuantised<N> ? kMostBlocks : 2];
  int64_t turn = 0;
  for (int64_t from = first; from < last; from += group) {
    const int64_t to = min64(from + group, last);
    for (int64_t i = begin; i < end; ++i, turn ^= 1) {
      const int64_t place = kQuantised<N> ? i - begin : turn;
      if (from == first || !kQuantised<N>) {
        prepare_block<N>(shape, run, i, memory + place * block_bytes<N>(shape), blocks[place]);
      }
      for (int64_t panel = from; panel < to; ++panel) {
        products.run(blocks[place], panel, 0, shape.steps, sums, nullptr, nullptr);
      }
    }
  }
  products.finish();
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

/// Working memory of one task: copied rows, sums, and the depth's steps.
template <class N>
struct LinearMemory {
  int64_t copies, sums, steps;  // bytes of each part
  LinearMemory(const LinearShape& shape, const LinearTasks<N>& tasks)
      : copies(max64(2, tasks.blocks_per_task) * block_bytes<N>(shape)),
        sums(PanelWalk<N>(shape.steps, tasks.blocks_per_task).sum_bytes(tasks.blocks_per_task)),
        steps(shape.steps * DepthSteps<N>::kBytes) {}
  int64_t bytes() const { return copies + sums + steps; }
};

template <CpuEpilogue epilogue, class N>
void run_linear_task(const LinearShape& shape, const LinearTasks<N>& tasks, const CpuLinearRun& run,
                     int64_t task, char* memory) {
  const int64_t first_block = task / tasks.panel_tasks * tasks.blocks_per_task;
  const int64_t count = min64(tasks.blocks_per_task, tasks.row_blocks - first_block);
  const int64_t part = task % tasks.panel_tasks;
  const int64_t first = shape.panels * part / tasks.panel_tasks;
  const int64_t last = shape.panels * (part + 1) / tasks.panel_tasks;
  const LinearMemory<N> parts(shape, tasks);
  char* sums = memory + parts.copies;
  DepthSteps<N> depth(sums + parts.sums, shape.steps);
  for (int64_t step = 0; step < shape.steps; ++step) {
    depth.set(step, step * kStepBytes<N>, 2 * kTileBytes);
  }
  PanelProducts<epilogue, N> products(depth.depth(kTileWidth * 2),
                                      static_cast<const char*>(run.packed),
                                      {static_cast<Stored<N>*>(run.y), shape.columns,
                                       run.accumulate, scales_of<N>(shape, run.packed)});
  if (kParts<N> == 1 && shape.steps <= kShallow) {
    return run_along_rows(shape, run, products, first_block, first_block + count, first, last,
                          memory, sums);
  }
  RowBlock blocks[kMostBlocks];
  for (int64_t i = 0; i < count; ++i) {
    prepare_block<N>(shape, run, first_block + i, memory + i * block_bytes<N>(shape), blocks[i]);
  }
  multiply_panels(products, blocks, count, first, last, sums);
}

template <CpuEpilogue epilogue, class N>
void run_linear_as(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  const LinearShape shape(layer, kStepDepth<N>);
  const LinearTasks<N> tasks(shape, run.rows, parallel.threads());
  const LinearMemory<N> parts(shape, tasks);
  parallel_for(parallel, tasks.row_tasks * tasks.panel_tasks, [&](int64_t begin, int64_t end) {
    const TileScope tiles;
    const Scratch memory(parts.bytes());
    for (int64_t i = begin; i < end; ++i) {
      run_linear_task<epilogue, N>(shape, tasks, run, i, static_cast<char*>(memory.data()));
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
