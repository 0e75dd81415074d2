// Convolutions on AMX tiles without unfolding the picture: 16 pixels side by side are the rows of a
// tile wherever a kernel tap looks, so a tap only moves the tile's address.
//
// A task takes rows of output pixels. The input rows they see are copied, with their zero padding,
// into a band in the second cache, as planes of 32 inputs in which neighbouring pixels lie side by
// side. Where rows of pixels are short, tiles run across the padding from
// one row into the next and what they compute there is dropped. Upsampling followed by a 3x3 kernel
// is done as four 2x2 kernels on the small picture, one per parity of the output row and column.
//
// Of fp32 pictures each of a number's parts (gemm.h) has planes of its own.
//
// Shapes: C inputs in tiles of 32, packed weights [phase][panel][C / 32][tap][part][2] tiles: the
// taps of the same inputs follow each other, since they see mostly the same cache lines.
#pragma once

#include <string.h>

#include "device/cpu/conv.h"
#include "device/cpu/x86/amx/conv_packing.h"
#include "device/cpu/x86/amx/linear.h"
#include "device/cpu/x86/simd/pointwise.h"

namespace atelier {
namespace {
namespace tiled {

constexpr int64_t kBandBytes = 640 << 10;  // of a task's band
constexpr int64_t kLargestBand = 1280 << 10;  // where a smaller one would hold few pixels
constexpr int64_t kSplitBandBytes = 4 << 20;  // of fp32, walked in chunks of depth
constexpr int64_t kFewPixels = 256;  // too few to make up for reading the weights

/// One call: sizes of pictures and bands.
struct ConvGrid {
  int64_t batch, height, width;  // of the input
  int64_t rows, columns;  // of the output, for one phase
  int64_t pad;  // above and to the left
  int64_t band_width;  // pixels of a band's row
  int64_t kernel, stride;
  bool across;  // tiles run across row ends

  ConvGrid(const CpuConv& layer, const TapShape& shape, const CpuPicture& input, int64_t phase)
      : batch(input.batch),
        height(input.height),
        width(input.width),
        kernel(shape.kernel),
        stride(shape.stride) {
    const int64_t padding = layer.pad_begin + layer.pad_end;
    rows = layer.upsample ? height : (height + padding - kernel) / stride + 1;
    columns = layer.upsample ? width : (width + padding - kernel) / stride + 1;
    // Small pixel i - 1 is the first that output rows of parity 0 see, i for parity 1.
    pad = layer.upsample ? 1 - phase / 2 : layer.pad_begin;
    pad_left = layer.upsample ? 1 - phase % 2 : layer.pad_begin;
    band_width = (columns - 1) * stride + kernel;
    // Share of a tile's pixels that count, either way.
    const int64_t along = columns * band_width, spanned = columns * round_up(columns, 16);
    across = stride == 1 && along < spanned;
  }
  int64_t band_rows(int64_t out_rows) const { return (out_rows - 1) * stride + kernel; }
  int64_t total_rows() const { return batch * rows; }
  int64_t pad_left;
};

/// Consecutive output rows of one picture and where what they see begins in every plane.
struct Segment {
  int64_t picture, first, count;
  char* pixels;
};

constexpr int64_t kPixelBytes = kTileWidth * 2;  // of a plane
constexpr int64_t kSlackPixels = 16;  // pixels a tile reads past the last it needs

/// Bytes of a plane that `rows` output rows of one picture need.
inline int64_t segment_bytes(const ConvGrid& grid, int64_t rows) {
  const int64_t slack = kSlackPixels * grid.stride + grid.kernel;
  return (grid.band_rows(rows) * grid.band_width + slack) * kPixelBytes;
}

/// How a call is cut: `rows` output rows per task, which may belong to several pictures.
template <class T>
struct ConvTasks {
  int64_t rows, row_tasks, panel_tasks;
  ConvTasks(const TapShape& shape, const ConvGrid& grid, int threads) {
    const auto most_rows = [&](int64_t limit) {
      int64_t count = 1;
      const int64_t planes = shape.depth * kParts<T>;
      while (count < grid.total_rows() && planes * plane_bytes(grid, count + 1) <= limit) ++count;
      return count;
    };
    rows = most_rows(kParts<T> == 1 ? kBandBytes : kSplitBandBytes);
    if (kParts<T> == 1 && rows * grid.columns < kFewPixels) rows = most_rows(kLargestBand);
    row_tasks = divide_up(grid.total_rows(), rows);
    if (row_tasks > threads) row_tasks = round_up(row_tasks, threads);
    row_tasks = min64(row_tasks, grid.total_rows());
    rows = divide_up(grid.total_rows(), row_tasks);
    row_tasks = divide_up(grid.total_rows(), rows);
    panel_tasks = threads == 1 ? 1 : divide_up(2 * threads, row_tasks * shape.phases);
    panel_tasks = min64(panel_tasks, shape.panels);
  }
  /// A plane of `count` rows, wherever they start.
  static int64_t plane_bytes(const ConvGrid& grid, int64_t count) {
    const int64_t pictures = segments(grid, count);
    return pictures * segment_bytes(grid, pictures == 1 ? count : min64(count, grid.rows));
  }
  /// The most pictures that `count` rows belong to.
  static int64_t segments(const ConvGrid& grid, int64_t count) {
    if (grid.rows % count == 0) return 1;
    return min64(grid.batch, (count - 2) / grid.rows + 2);
  }
  int64_t halves(const ConvGrid& grid) const {
    const int64_t pictures = segments(grid, rows);
    return grid.across ? divide_up(rows * grid.band_width, 16) + pictures
                       : rows * divide_up(grid.columns, 16);
  }
};

/// Copies the rows a segment sees into all planes.
template <class T>
void fill_band(const TapShape& shape, const ConvGrid& grid, const T* x, const Segment& segment,
               int64_t plane_bytes) {
  const int64_t row_bytes = grid.band_width * kPixelBytes;
  const int64_t top = segment.first * grid.stride - grid.pad;
  const int64_t until = min64(grid.width, grid.band_width - grid.pad_left);
  for (int64_t r = 0; r < grid.band_rows(segment.count); ++r) {
    const int64_t row = top + r;
    const bool inside = row >= 0 && row < grid.height;
    const T* pixels =
        x + (segment.picture * grid.height + (inside ? row : 0)) * grid.width * shape.inputs;
    for (int64_t e = 0; e < shape.depth; ++e) {
      char* to = segment.pixels + e * kParts<T> * plane_bytes + r * row_bytes;
      if (!inside) {
        for (int part = 0; part < kParts<T>; ++part) {
          memset(to + part * plane_bytes, 0, static_cast<size_t>(row_bytes));
        }
        continue;
      }
      const int64_t left = shape.inputs - e * kTileWidth;
      const T* from = pixels + e * kTileWidth;
      for (int64_t i = 0; i < grid.band_width; ++i) {
        const int64_t column = i - grid.pad_left;
        const bool present = column >= 0 && column < until;
        const T* pixel = from + (present ? column : 0) * shape.inputs;
        __m512i parts[kParts<T>];
        if constexpr (kParts<T> == 1) {
          parts[0] = load_words(pixel, present ? left : 0);
        } else {
          split<T>(pixel, present ? left : 0, parts);
        }
        for (int part = 0; part < kParts<T>; ++part) {
          _mm512_store_si512(to + part * plane_bytes + i * kPixelBytes, parts[part]);
        }
      }
    }
  }
}

/// Where results of one phase go.
struct ConvTarget {
  int64_t width, zoom, down, right;  // of the whole output; pixel (r, c) is (zoom r + down, ...)
  int64_t offset(const ConvGrid& grid, const TapShape& shape, int64_t picture, int64_t row,
                 int64_t column) const {
    const int64_t y = (picture * grid.rows + row) * zoom + down;
    return (y * width + column * zoom + right) * shape.outputs;
  }
};

/// Collects 16-pixel halves into blocks.
class BlockList {
 public:
  explicit BlockList(RowBlock* blocks) : blocks_(blocks) {}
  int64_t count() const { return divide_up(halves_, 2); }
  /// The output offsets of a new half that starts at `a`.
  int64_t* add(const char* a, const float* bias) {
    RowBlock& block = blocks_[halves_ / 2];
    // Both halves share the bias, so a half of another picture starts a block of its own.
    if (halves_ % 2 == 1 && block.bias != bias) {
      ++halves_;
      return add(a, bias);
    }
    const int64_t half = halves_++ % 2;
    if (half == 0) {
      block.a = a;
      block.bias = bias;
      block.a_half = 0;
      for (int64_t i = 16; i < kBlockRows; ++i) block.out[i] = -1;
    } else {
      block.a_half = a - block.a;
    }
    return block.out + half * 16;
  }

 private:
  RowBlock* blocks_;
  int64_t halves_ = 0;
};

inline void add_segment(const TapShape& shape, const ConvGrid& grid, const ConvTarget& target,
                        const Segment& segment, const float* bias, BlockList& list) {
  const auto offset = [&](int64_t row, int64_t column) {
    return column < grid.columns && row < segment.count
               ? target.offset(grid, shape, segment.picture, segment.first + row, column)
               : -1;
  };
  if (grid.across) {
    // The last row needs no more than its own pixels.
    const int64_t positions = (segment.count - 1) * grid.band_width + grid.columns;
    for (int64_t p = 0; p < positions; p += 16) {
      int64_t* out = list.add(segment.pixels + p * kPixelBytes, bias);
      for (int64_t i = 0; i < 16; ++i) {
        out[i] = offset((p + i) / grid.band_width, (p + i) % grid.band_width);
      }
    }
    return;
  }
  for (int64_t row = 0; row < segment.count; ++row) {
    for (int64_t column = 0; column < grid.columns; column += 16) {
      const int64_t position = row * grid.stride * grid.band_width + column * grid.stride;
      int64_t* out = list.add(segment.pixels + position * kPixelBytes, bias);
      for (int64_t i = 0; i < 16; ++i) out[i] = offset(row, column + i);
    }
  }
}

/// Working memory of one task.
template <class T>
struct ConvMemory {
  int64_t plane, bands, steps, blocks, sums;  // bytes of each part
  ConvMemory(const TapShape& shape, const ConvGrid& grid, const ConvTasks<T>& tasks) {
    // A half of another picture may leave half a block empty.
    const int64_t most = tasks.halves(grid) / 2 + 1 + ConvTasks<T>::segments(grid, tasks.rows);
    plane = ConvTasks<T>::plane_bytes(grid, tasks.rows);
    bands = shape.depth * kParts<T> * plane;
    steps = round_up(DepthSteps<T>::bytes(shape.steps()), 64);
    blocks = round_up(most * int64_t{sizeof(RowBlock)}, 64);
    sums = walk(shape, most).sum_bytes(most);
  }
  /// Bands of bf16 fit the second cache at any depth.
  static PanelWalk<T> walk(const TapShape& shape, int64_t count) {
    return {shape.steps(), count, kParts<T> > 1};
  }
  int64_t bytes() const { return bands + steps + blocks + sums; }
};

template <class T>
void run_conv_task(const CpuConv& layer, const TapShape& shape, const CpuConvRun& run,
                   const ConvTasks<T>& tasks, int64_t task, char* memory) {
  const int64_t phase = task / (tasks.row_tasks * tasks.panel_tasks);
  const int64_t part = task % tasks.panel_tasks;
  const ConvGrid grid(layer, shape, run.input, phase);
  const ConvMemory<T> parts(shape, grid, tasks);
  BlockList list(reinterpret_cast<RowBlock*>(memory + parts.bands + parts.steps));
  RowBlock* blocks = reinterpret_cast<RowBlock*>(memory + parts.bands + parts.steps);
  char* sums = memory + parts.bands + parts.steps + parts.blocks;

  const int64_t zoom = layer.upsample ? 2 : 1;
  const ConvTarget target{grid.columns * zoom, zoom, layer.upsample ? phase / 2 : 0,
                          layer.upsample ? phase % 2 : 0};
  int64_t row = task / tasks.panel_tasks % tasks.row_tasks * tasks.rows;
  const int64_t end = min64(row + tasks.rows, grid.total_rows());
  char* pixels = memory;
  while (row < end) {
    const int64_t first = row % grid.rows;
    const Segment segment{row / grid.rows, first, min64(end - row, grid.rows - first), pixels};
    fill_band(shape, grid, static_cast<const T*>(run.x), segment, parts.plane);
    const float* bias =
        run.bias == nullptr ? nullptr : run.bias + segment.picture * run.bias_batch_stride;
    add_segment(shape, grid, target, segment, bias, list);
    pixels += segment_bytes(grid, segment.count);
    row += segment.count;
  }
  DepthSteps<T> depth(memory + parts.bands, shape.steps());
  for (int64_t tap = 0; tap < shape.taps(); ++tap) {
    const int64_t away = tap / grid.kernel * grid.band_width + tap % grid.kernel;
    for (int64_t e = 0; e < shape.depth; ++e) {
      depth.set(e * shape.taps() + tap, e * kParts<T> * parts.plane + away * kPixelBytes,
                parts.plane);
    }
  }
  const char* packed = static_cast<const char*>(run.packed) + phase * shape.phase_bytes<T>();
  PanelProducts<CpuEpilogue::plain, T> products(
      depth.depth(grid.stride * kPixelBytes), packed,
      {static_cast<T*>(run.y), shape.outputs, run.accumulate});
  multiply_panels(products, ConvMemory<T>::walk(shape, list.count()), blocks, list.count(),
                  shape.panels * part / tasks.panel_tasks,
                  shape.panels * (part + 1) / tasks.panel_tasks, sums, [](int64_t, int64_t) {});
}

bool conv_supported(const CpuConv& layer) {
  const bool doubled =
      layer.kernel == 3 && layer.stride == 1 && layer.pad_begin == 1 && layer.pad_end == 1;
  return !layer.upsample || doubled;
}
int64_t conv_weight_bytes(const CpuConv& layer) {
  const TapShape shape(layer);
  return with_type(layer.type, [&](auto number) {
    return shape.phases * shape.phase_bytes<decltype(number)>();
  });
}
void pack_conv(const CpuConv& layer, const CpuWeights& weights, void* packed,
               const Parallel& parallel) {
  const TapShape shape(layer);
  const int64_t row = layer.inputs * layer.kernel * layer.kernel;
  char* const to = static_cast<char*>(packed);
  with_type(layer.type, [&](auto number) {
    using T = decltype(number);
    if (!layer.upsample) {
      for_weights(weights, row, 16, shape.panels, parallel, [&](const auto& rows, int64_t panel) {
        const Scratch words(word_bytes<T>(shape));
        for (int64_t tile = 0; tile < 2; ++tile) {
          const int64_t first = panel * kPanelColumns + tile * 16;
          const int64_t present = max64(0, min64(16, layer.outputs - first));
          const auto* const outputs = rows.rows(present > 0 ? first : 0, present);
          pack_conv_tile<T>(shape, outputs, present, panel, tile, static_cast<char*>(words.data()),
                            to);
        }
      });
      return;
    }
    for_weights(
        weights, row, kPanelColumns, shape.panels, parallel, [&](const auto& rows, int64_t panel) {
          const int64_t first = panel * kPanelColumns;
          const auto* const outputs = rows.rows(first, min64(kPanelColumns, layer.outputs - first));
          const Scratch columns(column_bytes(layer));
          for (int64_t phase = 0; phase < shape.phases; ++phase) {
            pack_phase_panel<T>(layer, shape, outputs, phase, panel,
                                static_cast<float*>(columns.data()), to);
          }
        });
  });
}
int64_t conv_scratch_bytes(const CpuConv& layer, const CpuPicture& input, int threads) {
  if (is_pointwise(layer)) {
    const int64_t pixels = input.batch * input.height * input.width;
    return tiled::linear_scratch_bytes(pointwise(layer), pixels, threads);
  }
  return with_type(layer.type, [&](auto number) {
    using T = decltype(number);
    const TapShape shape(layer);
    const ConvGrid grid(layer, shape, input, 0);
    return threads * ConvMemory<T>(shape, grid, ConvTasks<T>(shape, grid, threads)).bytes();
  });
}
void conv(const CpuConv& layer, const CpuConvRun& run, const Parallel& parallel) {
  if (is_pointwise(layer)) {
    return run_pointwise(layer, run, [&](const CpuLinear& as_linear, const CpuLinearRun& rows) {
      tiled::linear(as_linear, rows, parallel);
    });
  }
  with_type(layer.type, [&](auto number) {
    using T = decltype(number);
    const TapShape shape(layer);
    const ConvGrid grid(layer, shape, run.input, 0);
    const ConvTasks<T> tasks(shape, grid, parallel.threads());
    const int64_t bytes = ConvMemory<T>(shape, grid, tasks).bytes();
    const int64_t count = shape.phases * tasks.row_tasks * tasks.panel_tasks;
    parallel_for(parallel, count, [&](int64_t begin, int64_t end) {
      const TileScope tiles;
      const Scratch memory(bytes);
      for (int64_t i = begin; i < end; ++i) {
        run_conv_task<T>(layer, shape, run, tasks, i, static_cast<char*>(memory.data()));
      }
    });
  });
}

}  // namespace tiled
}  // namespace
}  // namespace atelier
