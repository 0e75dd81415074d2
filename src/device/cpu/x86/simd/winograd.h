// Winograd F(2x2, 3x3) convolution, stride 1, padding 1, channels-last: 16 multiplications for 2x2
// outputs instead of 36 (Lavin and Gray, arXiv:1509.09308). Transforms in fp32; the transformed
// pictures and weights are stored as words (attention.h), multiplied with fp32 sums.
//
// Shapes: C inputs, O outputs, W words of C rounded up to whole vectors. A tile is 2x2 outputs.
// Transformed input of a block of tiles V [16][kTiles][W], weights U [O /
// kOutputs][16][W][kOutputs], product M [16][kTiles][kOutputs].
#pragma once

#include <string.h>

#include "device/cpu/conv.h"
#include "device/cpu/x86/simd/attention.h"
#include "device/cpu/x86/simd/columns.h"

namespace atelier {
namespace {

constexpr int kTiles = 24;  // of a block, whose V stays in the second-level cache
constexpr int kTileRows = 6;  // tiles per register tile
constexpr int kOutputs = kLanes == 16 ? 64 : 16;  // channels per block of weights
constexpr int64_t kReread = 20 << 20;  // bytes of weights worth re-reading for each block of tiles

/// A picture and where its tiles lie.
struct TileGrid {
  int64_t batch, height, width;
  int64_t rows() const { return divide_up(height, 2); }
  int64_t columns() const { return divide_up(width, 2); }
  int64_t tiles() const { return batch * rows() * columns(); }
  int64_t blocks() const { return divide_up(tiles(), kTiles); }
};
struct TilePosition {
  int64_t batch, y, x;  // of its first output
};
ATELIER_INLINE TilePosition tile_position(const TileGrid& grid, int64_t tile) {
  const int64_t row = tile / grid.columns();
  return {row / grid.rows(), row % grid.rows() * 2, tile % grid.columns() * 2};
}

template <class T>
class Winograd {
 public:
  using Word = uint32_t;
  static constexpr int kWord = kPerWord<T>;

  explicit Winograd(const CpuConv& layer)
      : inputs_(layer.inputs), outputs_(layer.outputs), words_(round_up(inputs_, kLanes) / kWord) {}

  int64_t weight_blocks() const { return divide_up(outputs_, kOutputs); }
  int64_t weight_words() const { return weight_blocks() * block_words(); }
  int64_t block_words() const { return 16 * words_ * kOutputs; }
  int64_t input_bytes() const { return 16 * kTiles * words_ * int64_t{sizeof(Word)}; }
  static constexpr int64_t kProductBytes = 16 * kTiles * kOutputs * int64_t{sizeof(float)};
  bool reread_weights(const TileGrid& grid, int threads) const {
    return weight_words() * int64_t{sizeof(Word)} <= kReread && grid.blocks() >= 2 * threads;
  }
  int64_t scratch_bytes(const TileGrid& grid, int threads) const {
    const int64_t pictures = reread_weights(grid, threads) ? threads : grid.blocks();
    return pictures * input_bytes() + threads * kProductBytes;
  }

  int64_t inputs() const { return inputs_; }
  template <class S>
  void pack(const WeightRows<S>& weights, int64_t block, Word* packed) const;
  void run(const CpuConvRun& run, const Parallel& parallel) const;

 private:
  void transform_input(const T* x, const TileGrid& grid, int64_t first, int count, Word* v) const;
  void multiply(const Word* v, const Word* u, int count, float* m) const;
  void transform_output(const CpuConvRun& run, const TileGrid& grid, const float* m, int64_t first,
                        int count, int64_t output) const;
  void run_block(const CpuConvRun& run, const TileGrid& grid, const Word* v, int64_t tile_block,
                 int64_t weight_block, float* m) const;

  int64_t inputs_, outputs_, words_;
};

/// G g G^T of kLanes outputs' 3x3 kernels; tap t lies at g + t * stride.
ATELIER_INLINE void transform_kernel(const float* g, int64_t stride, Vec (&u)[16]) {
  const Vec half = splat(0.5F);
  Vec rows[4][3];
  ATELIER_UNROLL for (int j = 0; j < 3; ++j) {
    const Vec a = load(g + j * stride), b = load(g + (3 + j) * stride);
    const Vec c = load(g + (6 + j) * stride);
    rows[0][j] = a;
    rows[1][j] = mul(half, add(add(a, b), c));
    rows[2][j] = mul(half, add(sub(a, b), c));
    rows[3][j] = c;
  }
  ATELIER_UNROLL for (int i = 0; i < 4; ++i) {
    const Vec a = rows[i][0], b = rows[i][1], c = rows[i][2];
    u[i * 4] = a;
    u[i * 4 + 1] = mul(half, add(add(a, b), c));
    u[i * 4 + 2] = mul(half, add(sub(a, b), c));
    u[i * 4 + 3] = c;
  }
}

template <class T>
template <class S>
void Winograd<T>::pack(const WeightRows<S>& weights, int64_t block, Word* packed) const {
  constexpr int64_t kInputs = 16;  // whose columns are at hand at a time
  Word* out = packed + block * block_words();
  const int64_t first = block * kOutputs, row = inputs_ * 9;
  const S* const rows = weights.rows(first, min64(kOutputs, outputs_ - first));
  alignas(64) float columns[kInputs * 9 * kOutputs];
  for (int64_t c0 = 0; c0 < words_ * kWord; c0 += kInputs) {
    read_columns(rows, row, outputs_ - first, c0 * 9, kInputs * 9, kOutputs, columns);
    for (int64_t c = 0; c < min64(kInputs, words_ * kWord - c0); c += kWord) {
      for (int64_t o = 0; o < kOutputs; o += kLanes) {
        Vec u[kWord][16];
        ATELIER_UNROLL for (int i = 0; i < kWord; ++i) {
          transform_kernel(columns + (c + i) * 9 * kOutputs + o, kOutputs, u[i]);
        }
        Word* to = out + (c0 + c) / kWord * kOutputs + o;
        ATELIER_UNROLL for (int k = 0; k < 16; ++k) {
          store_raw(to + k * words_ * kOutputs, make_words<T>(u[0][k], u[kWord - 1][k]), kLanes);
        }
      }
    }
  }
}

// B^T d B for `count` tiles from `first` on.
template <class T>
void Winograd<T>::transform_input(const T* x, const TileGrid& grid, int64_t first, int count,
                                  Word* v) const {
  const int64_t plane = kTiles * words_;
  for (int t = 0; t < round_up(count, kTileRows); ++t) {
    if (t >= count) {
      for (int k = 0; k < 16; ++k) {
        memset(v + k * plane + t * words_, 0, static_cast<size_t>(words_) * sizeof(Word));
      }
      continue;
    }
    const TilePosition at = tile_position(grid, first + t);
    const T* pixels[16];
    for (int k = 0; k < 16; ++k) {
      const int64_t row = at.y - 1 + k / 4, column = at.x - 1 + k % 4;
      const bool inside = row >= 0 && row < grid.height && column >= 0 && column < grid.width;
      pixels[k] =
          inside ? x + ((at.batch * grid.height + row) * grid.width + column) * inputs_ : nullptr;
    }
    for (int64_t c = 0; c < inputs_; c += kLanes) {
      const Lanes lanes = first_lanes(inputs_ - c);
      Vec d[16], e[16];
      ATELIER_UNROLL for (int k = 0; k < 16; ++k) {
        d[k] = pixels[k] != nullptr ? load(pixels[k] + c, lanes) : zero();
      }
      ATELIER_UNROLL for (int k = 0; k < 4; ++k) {
        e[k] = sub(d[k], d[8 + k]);
        e[4 + k] = add(d[4 + k], d[8 + k]);
        e[8 + k] = sub(d[8 + k], d[4 + k]);
        e[12 + k] = sub(d[4 + k], d[12 + k]);
      }
      Word* out = v + t * words_ + c / kWord;
      ATELIER_UNROLL for (int k = 0; k < 16; k += 4) {
        store_numbers<T>(out + k * plane, sub(e[k], e[k + 2]));
        store_numbers<T>(out + (k + 1) * plane, add(e[k + 1], e[k + 2]));
        store_numbers<T>(out + (k + 2) * plane, sub(e[k + 2], e[k + 1]));
        store_numbers<T>(out + (k + 3) * plane, sub(e[k + 1], e[k + 3]));
      }
    }
  }
}

// M = V U for one block of tiles and one of outputs, in strips of W that keep U in the first cache.
template <class T>
void Winograd<T>::multiply(const Word* v, const Word* u, int count, float* m) const {
  constexpr int64_t kStrip = 64;
  constexpr int kVectorsPerBlock = kOutputs / kLanes;
  for (int k = 0; k < 16; ++k, u += words_ * kOutputs) {
    for (int64_t w0 = 0; w0 < words_; w0 += kStrip) {
      const int64_t n = min64(kStrip, words_ - w0);
      for (int t = 0; t < count; t += kTileRows) {
        const Word* a = v + (k * kTiles + t) * words_ + w0;
        const Word* b = u + w0 * kOutputs;
        float* out = m + (k * kTiles + t) * kOutputs;
        Vec s[kTileRows][kVectorsPerBlock];
        ATELIER_UNROLL for (int r = 0; r < kTileRows; ++r) {
          ATELIER_UNROLL for (int c = 0; c < kVectorsPerBlock; ++c) {
            s[r][c] = w0 == 0 ? zero() : load_aligned(out + r * kOutputs + c * kLanes);
          }
        }
        for (int64_t w = 0; w < n; ++w, b += kOutputs) {
          Words weights[kVectorsPerBlock];
          ATELIER_UNROLL for (int c = 0; c < kVectorsPerBlock; ++c) {
            weights[c] = load_aligned(b + kLanes * c);
          }
          ATELIER_UNROLL for (int r = 0; r < kTileRows; ++r) {
            ATELIER_UNROLL for (int c = 0; c < kVectorsPerBlock; ++c) {
              s[r][c] = dot<T>(s[r][c], weights[c], a + r * words_ + w);
            }
          }
        }
        ATELIER_UNROLL for (int r = 0; r < kTileRows; ++r) {
          ATELIER_UNROLL for (int c = 0; c < kVectorsPerBlock; ++c) {
            store_aligned(out + r * kOutputs + c * kLanes, s[r][c]);
          }
        }
      }
    }
  }
}

// y = A^T M A + bias (+ y) for kOutputs outputs from `output` on; what lies outside is not written.
template <class T>
void Winograd<T>::transform_output(const CpuConvRun& run, const TileGrid& grid, const float* m,
                                   int64_t first, int count, int64_t output) const {
  constexpr int64_t kPlane = kTiles * kOutputs;
  for (int t = 0; t < count; ++t) {
    const TilePosition at = tile_position(grid, first + t);
    for (int64_t c = 0; c < min64(kOutputs, outputs_ - output); c += kLanes) {
      const Lanes lanes = first_lanes(outputs_ - output - c);
      Vec d[16], e[2][4];
      ATELIER_UNROLL for (int k = 0; k < 16; ++k) {
        d[k] = load_aligned(m + k * kPlane + t * kOutputs + c);
      }
      ATELIER_UNROLL for (int k = 0; k < 4; ++k) {
        e[0][k] = add(add(d[k], d[4 + k]), d[8 + k]);
        e[1][k] = sub(sub(d[4 + k], d[8 + k]), d[12 + k]);
      }
      const float* bias = run.bias + at.batch * run.bias_batch_stride + output + c;
      const Vec added = run.bias == nullptr ? zero() : load(bias, lanes);
      for (int row = 0; row < 2 && at.y + row < grid.height; ++row) {
        const auto& f = e[row];
        const Vec sums[2] = {add(add(f[0], f[1]), add(f[2], added)),
                             add(sub(f[1], f[2]), sub(added, f[3]))};
        T* y = static_cast<T*>(run.y) + output + c +
               ((at.batch * grid.height + at.y + row) * grid.width + at.x) * outputs_;
        for (int column = 0; column < 2 && at.x + column < grid.width; ++column, y += outputs_) {
          const Vec sum = sums[column];
          store(y, run.accumulate ? add(sum, load(y, lanes)) : sum, lanes);
        }
      }
    }
  }
}

template <class T>
void Winograd<T>::run_block(const CpuConvRun& run, const TileGrid& grid, const Word* v,
                            int64_t tile_block, int64_t weight_block, float* m) const {
  const int64_t first = tile_block * kTiles;
  const int count = static_cast<int>(min64(kTiles, grid.tiles() - first));
  multiply(v, static_cast<const Word*>(run.packed) + weight_block * block_words(), count, m);
  transform_output(run, grid, m, first, count, weight_block * kOutputs);
}

// Small weights are re-read for each block of tiles. Where they are the larger part, all tiles are
// transformed first and the weights read once.
template <class T>
void Winograd<T>::run(const CpuConvRun& run, const Parallel& parallel) const {
  const TileGrid grid{run.input.batch, run.input.height, run.input.width};
  const auto transform = [&](int64_t block, Word* v) {
    const int64_t first = block * kTiles;
    transform_input(static_cast<const T*>(run.x), grid, first,
                    static_cast<int>(min64(kTiles, grid.tiles() - first)), v);
  };
  if (reread_weights(grid, parallel.threads())) {
    parallel_for(parallel, grid.blocks(), [&](int64_t begin, int64_t end) {
      const Scratch inputs(input_bytes()), products(kProductBytes);
      Word* v = static_cast<Word*>(inputs.data());
      for (int64_t i = begin; i < end; ++i) {
        transform(i, v);
        for (int64_t o = 0; o < weight_blocks(); ++o) {
          run_block(run, grid, v, i, o, static_cast<float*>(products.data()));
        }
      }
    });
    return;
  }
  const int64_t stride = input_bytes() / int64_t{sizeof(Word)};
  const Scratch inputs(grid.blocks() * input_bytes());
  Word* v = static_cast<Word*>(inputs.data());
  parallel_for(parallel, grid.blocks(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) transform(i, v + i * stride);
  });
  parallel_for(parallel, weight_blocks(), [&](int64_t begin, int64_t end) {
    const Scratch products(kProductBytes);
    for (int64_t o = begin; o < end; ++o) {
      for (int64_t i = 0; i < grid.blocks(); ++i) {
        run_block(run, grid, v + i * stride, i, o, static_cast<float*>(products.data()));
      }
    }
  });
}

/// Calls body(Winograd<T>) for the layer's type.
template <class F>
auto with_winograd(const CpuConv& layer, const F& body) {
  return layer.type == CpuType::fp32 ? body(Winograd<float>(layer)) : body(Winograd<Bf16>(layer));
}

}  // namespace
}  // namespace atelier
