// Linear layers on AMX tiles.
//
// Shallow layers walk along the rows, so that neighbouring columns of y are written one after
// another, with a group of panels in the second cache. Deep layers keep many blocks of rows there
// while the panels pass by. Rows are read where they lie, unless they are no multiple of a tile.
#pragma once

#include "device/cpu/x86/amx/gemm.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int64_t kRowBytes = 768 << 10;  // of rows per task
constexpr int64_t kPanelBytes = 768 << 10;  // of panels a shallow layer passes along a row
constexpr int64_t kShallow = 24;  // steps up to which a layer is shallow
constexpr int64_t kMostBlocks = 32;  // per task

/// How a layer's columns are packed: a panel of a gated layer has 16 columns and their 16 gates.
struct LinearShape {
  int64_t inputs, outputs, steps, panels, columns;
  bool gated;
  explicit LinearShape(const CpuLinear& layer)
      : inputs(layer.inputs),
        outputs(layer.outputs),
        steps(divide_up(layer.inputs, kTileWidth)),
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

template <class S>
void pack_linear_panel(const LinearShape& shape, const S* weights, int64_t panel, char* packed) {
  char* out = packed + panel * shape.steps * 2 * kTileBytes;
  for (int64_t step = 0; step < shape.steps; ++step) {
    for (int64_t tile = 0; tile < 2; ++tile, out += kTileBytes) {
      const int64_t first = shape.output(panel, tile), present = shape.present(panel, tile);
      __m512i rows[16];
      for (int64_t i = 0; i < 16; ++i) {
        const int64_t left = i < present ? shape.inputs - step * kTileWidth : 0;
        const S* row = weights + (i < present ? (first + i) * shape.inputs : 0);
        rows[i] = load_bf16(row + (left > 0 ? step * kTileWidth : 0), left);
      }
      store_tile(rows, out);
    }
  }
}

/// Copies up to 32 rows from `first` on, the rest and what a row lacks to whole tiles become zero.
inline void copy_rows(const CpuLinearRun& run, const LinearShape& shape, int64_t first,
                      int64_t stride, char* to) {
  const Bf16* x = static_cast<const Bf16*>(run.x) + first * run.x_stride;
  const int64_t present = min64(kBlockRows, run.rows - first);
  for (int64_t row = 0; row < kBlockRows; ++row, x += run.x_stride, to += stride) {
    for (int64_t k = 0; k < shape.steps * kTileWidth; k += kTileWidth) {
      const int64_t left = row < present ? shape.inputs - k : 0;
      const __mmask32 lanes = left >= 32 ? ~__mmask32{0} : (1U << max64(0, left)) - 1;
      _mm512_storeu_si512(to + k * 2, _mm512_maskz_loadu_epi16(lanes, x + k));
    }
  }
}

/// The cut of a layer into tasks: blocks of rows, and ranges of panels where rows are few.
struct LinearTasks {
  int64_t row_blocks, blocks_per_task, row_tasks, panel_tasks;
  LinearTasks(const LinearShape& shape, int64_t rows, int threads) {
    constexpr int64_t kTasksPerThread = 2;
    const int64_t block_bytes = shape.steps * 2 * kTileBytes;
    row_blocks = divide_up(rows, kBlockRows);
    const int64_t most = max64(2, min64(kMostBlocks, kRowBytes / block_bytes));
    row_tasks = divide_up(row_blocks, most);
    blocks_per_task = divide_up(row_blocks, row_tasks);
    row_tasks = divide_up(row_blocks, blocks_per_task);
    panel_tasks = threads == 1 ? 1 : divide_up(threads * kTasksPerThread, row_tasks);
    panel_tasks = min64(panel_tasks, shape.panels);
  }
};

/// One call's rows as blocks. The last block, or all, may need a copy.
class LinearRows {
 public:
  LinearRows(const LinearShape& shape, const CpuLinearRun& run) : shape_(shape), run_(run) {}

  bool in_place() const { return shape_.inputs % kTileWidth == 0; }
  bool copied(int64_t block) const { return !in_place() || (block + 1) * kBlockRows > run_.rows; }
  /// Bytes between rows: all blocks of a call share one stride, so copies take that of x.
  int64_t stride() const { return in_place() ? run_.x_stride * 2 : shape_.steps * kTileWidth * 2; }
  int64_t block_bytes() const { return kBlockRows * stride(); }
  const char* at(int64_t block) const {
    return static_cast<const char*>(run_.x) + block * kBlockRows * run_.x_stride * 2;
  }
  /// Sets up block `index`; `memory` has block_bytes() for a copy.
  void prepare(int64_t index, char* memory, RowBlock& block) const {
    const int64_t first = index * kBlockRows;
    block.a = at(index);
    if (copied(index)) {
      copy_rows(run_, shape_, first, stride(), memory);
      block.a = memory;
    }
    block.a_half = 16 * stride();
    block.bias = run_.bias;
    for (int64_t row = 0; row < kBlockRows; ++row) {
      block.out[row] = first + row < run_.rows ? (first + row) * run_.y_stride : -1;
    }
  }

 private:
  const LinearShape& shape_;
  const CpuLinearRun& run_;
};

/// Row blocks [begin, end) and panels [first, last) of a shallow layer.
template <CpuEpilogue epilogue>
void run_along_rows(const LinearShape& shape, const LinearRows& rows,
                    PanelProducts<epilogue>& products, int64_t begin, int64_t end, int64_t first,
                    int64_t last, char* memory) {
  const int64_t group = max64(1, kPanelBytes / (shape.steps * 2 * kTileBytes));
  char* sums = memory + 2 * rows.block_bytes();
  RowBlock blocks[2];  // taken in turns: the one before may still be written from
  int64_t turn = 0;
  for (int64_t from = first; from < last; from += group) {
    const int64_t to = min64(from + group, last);
    for (int64_t i = begin; i < end; ++i, turn ^= 1) {
      rows.prepare(i, memory + turn * rows.block_bytes(), blocks[turn]);
      const int64_t lines = i + 1 < end && !rows.copied(i + 1) ? rows.block_bytes() / 64 : 0;
      const char* next = rows.at(i + 1);
      for (int64_t panel = from; panel < to; ++panel) {
        const int64_t part = panel - from, parts = to - from;
        products.run(blocks[turn], panel, 0, shape.steps, sums, next + lines * part / parts * 64,
                     next + lines * (part + 1) / parts * 64);
      }
    }
  }
  products.finish();
}

template <CpuEpilogue epilogue>
void run_linear_task(const LinearShape& shape, const LinearTasks& tasks, const CpuLinearRun& run,
                     int64_t task, char* memory, int64_t* steps) {
  const LinearRows rows(shape, run);
  const int64_t first_block = task / tasks.panel_tasks * tasks.blocks_per_task;
  const int64_t count = min64(tasks.blocks_per_task, tasks.row_blocks - first_block);
  const int64_t part = task % tasks.panel_tasks;
  const int64_t first = shape.panels * part / tasks.panel_tasks;
  const int64_t last = shape.panels * (part + 1) / tasks.panel_tasks;
  for (int64_t step = 0; step < shape.steps; ++step) steps[step] = step * 64;
  PanelProducts<epilogue> products({rows.stride(), steps, shape.steps},
                                   static_cast<const char*>(run.packed),
                                   {static_cast<Bf16*>(run.y), shape.columns, run.accumulate});
  if (shape.steps <= kShallow) {
    run_along_rows(shape, rows, products, first_block, first_block + count, first, last, memory);
    return;
  }
  RowBlock blocks[kMostBlocks];
  char* sums = memory + (rows.in_place() ? 1 : count) * rows.block_bytes();
  for (int64_t i = 0; i < count; ++i) {
    rows.prepare(first_block + i, memory + (rows.in_place() ? 0 : i) * rows.block_bytes(),
                 blocks[i]);
  }
  multiply_panels(products, blocks, count, shape.steps, first, last, sums);
}

template <CpuEpilogue epilogue>
void run_linear(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  const LinearShape shape(layer);
  const LinearTasks tasks(shape, run.rows, parallel.threads());
  parallel_for(parallel, tasks.row_tasks * tasks.panel_tasks, [&](int64_t begin, int64_t end) {
    const TileScope tiles;
    const LinearRows rows(shape, run);
    const int64_t copies = max64(2, rows.in_place() ? 1 : tasks.blocks_per_task);
    const Scratch memory(copies * rows.block_bytes() + tasks.blocks_per_task * kSumBytes);
    const Scratch steps(shape.steps * int64_t{sizeof(int64_t)});
    for (int64_t i = begin; i < end; ++i) {
      run_linear_task<epilogue>(shape, tasks, run, i, static_cast<char*>(memory.data()),
                                static_cast<int64_t*>(steps.data()));
    }
  });
}

int64_t linear_weight_bytes(const CpuLinear& layer) {
  const LinearShape shape(layer);
  return shape.panels * shape.steps * 2 * kTileBytes;
}
void pack_linear(const CpuLinear& layer, const CpuWeights& weights, void* packed,
                 const Parallel& parallel) {
  const LinearShape shape(layer);
  with_weights(weights, [&](const auto* numbers) {
    parallel_for(parallel, shape.panels, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        pack_linear_panel(shape, numbers, i, static_cast<char*>(packed));
      }
    });
  });
}
void linear(const CpuLinear& layer, const CpuLinearRun& run, const Parallel& parallel) {
  switch (layer.epilogue) {
    case CpuEpilogue::plain:
      return run_linear<CpuEpilogue::plain>(layer, run, parallel);
    case CpuEpilogue::gelu:
      return run_linear<CpuEpilogue::gelu>(layer, run, parallel);
    case CpuEpilogue::gelu_tanh:
      return run_linear<CpuEpilogue::gelu_tanh>(layer, run, parallel);
    case CpuEpilogue::quick_gelu:
      return run_linear<CpuEpilogue::quick_gelu>(layer, run, parallel);
    case CpuEpilogue::silu:
      return run_linear<CpuEpilogue::silu>(layer, run, parallel);
    case CpuEpilogue::geglu:
      return run_linear<CpuEpilogue::geglu>(layer, run, parallel);
  }
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
