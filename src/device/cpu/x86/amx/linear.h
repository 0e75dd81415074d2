// Linear layers on AMX tiles, bf16 or fp32, or as 8-bit integers (gemm.h).
//
// Shallow layers walk along the rows, so that neighbouring columns of y are written one after
// another, with a group of panels in the second cache. Deep layers keep a chunk of many blocks of
// rows there while the panels pass by, and copy it just before.
#pragma once

#include "device/cpu/x86/amx/linear_rows.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int64_t kRowBytes = 1000 << 10;  // of a chunk of the rows per task
constexpr int64_t kPanelBytes = 768 << 10;  // of panels a shallow layer passes along a row
constexpr int64_t kShallow = 24;  // steps up to which a layer is shallow
constexpr int64_t kSplitBlocks = 16;  // per task where rows are split into parts

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
int64_t panels_bytes(const LinearShape& shape) {
  return shape.panels * shape.steps * kStepBytes<N>;
}

/// The scales of quantised outputs, which follow the panels; otherwise nullptr.
template <class N>
const float* scales_of(const LinearShape& shape, const void* packed) {
  if constexpr (!kQuantised<N>) return nullptr;
  return reinterpret_cast<const float*>(static_cast<const char*>(packed) + panels_bytes<N>(shape));
}

/// Working memory of one task: copied rows, sums, the depth's steps, the panels' windows, and the
/// tail's inputs.
template <class N>
struct LinearMemory {
  int64_t copies, sums, steps, windows, tails;  // bytes of each part
  LinearMemory(const LinearShape& shape, const LinearTasks<N>& tasks)
      : copies(max64(2, tasks.blocks_per_task) * block_bytes<N>(shape)),
        sums(walk(shape, tasks.blocks_per_task).sum_bytes(tasks.blocks_per_task)),
        steps(DepthSteps<N>::bytes(shape.steps, shape.windows.count())),
        windows(shape.windows.count() > 1 ? round_up(shape.panels * 4, 64) : 0),
        tails(LinearTail<N>::bytes(shape, tasks.blocks_per_task)) {}
  int64_t bytes() const { return copies + sums + steps + windows + tails; }
  static PanelWalk<N> walk(const LinearShape& shape, int64_t count) {
    return {shape.steps, count, true};
  }
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

/// Where the steps of each panel lie in a row; `windows` has room for one number a panel where
/// there are several windows.
template <class N>
Depth depth_of(const LinearShape& shape, DepthSteps<N>& steps, int32_t* windows) {
  const int64_t count = shape.windows.count();
  for (int64_t window = 0; window < count; ++window) {
    const int64_t first = shape.windows.first(window);
    for (int64_t step = 0; step < shape.steps; ++step) {
      const int64_t at = step < shape.main.steps ? step : step + first;
      steps.set(step, at * kStepBytes<N>, 2 * kTileBytes, window);
    }
  }
  Depth depth = steps.depth(kTileWidth * 2);
  if (count == 1) return depth;
  for (int64_t panel = 0; panel < shape.panels; ++panel) {
    windows[panel] = static_cast<int32_t>(shape.windows.of_panel(panel));
  }
  depth.windows = windows;
  return depth;
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
  char* const behind = sums + parts.sums + parts.steps;
  DepthSteps<N> steps(sums + parts.sums, shape.steps);
  const Depth depth = depth_of(shape, steps, reinterpret_cast<int32_t*>(behind));
  const bool shallow = kParts<N> == 1 && shape.steps <= kShallow;
  PanelProducts<epilogue, N> products(depth, static_cast<const char*>(run.packed),
                                      {static_cast<Stored<N>*>(run.y), shape.columns,
                                       run.accumulate, scales_of<N>(shape, run.packed)});
  LinearRows<N> rows(shape, run, first_block, memory);
  LinearTail<N> tail(shape, run, rows, depth, count, behind + parts.windows);
  const bool tailed = !kQuantised<N> && shape.tail.steps > 0;
  // Quantised rows and tails take longer to make than to read again.
  const bool kept = kQuantised<N> || tailed;
  if (kQuantised<N> || (shallow && kept)) {
    for (int64_t i = 0; i < count; ++i) rows.copy(i, i);
  }
  if (shallow) {
    if (tailed) tail.run(0, shape.steps);
    return run_along_rows(shape, rows, kept, products, count, first, last, sums);
  }
  multiply_panels(products, LinearMemory<N>::walk(shape, count), rows.blocks(count), count, first,
                  last, sums, [&](int64_t begin, int64_t end) {
                    if (kQuantised<N>) return;
                    if (tailed) tail.fetch(begin, end);
                    rows.copy_steps(count, begin, end);
                    if (!tailed) return;
                    products.finish();
                    tail.run(begin, end);
                  });
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
  const bool tail = range.first_step > 0;
  with_type(layer.type, [&](auto number) {
    for_weights(
        weights, range.inputs, 16, shape.panels, parallel, [&](const auto& rows, int64_t panel) {
          const int64_t window = tail ? shape.windows.of_panel(panel) : 0;
          pack_linear_panel<decltype(number)>(shape, range, tail ? shape.windows.first(window) : 0,
                                              rows, panel, static_cast<char*>(packed));
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
  const InputRange window{shape.tail.inputs, shape.main.steps, shape.windows.width()};
  pack_range(layer, shape, window, weights, packed, parallel);
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
