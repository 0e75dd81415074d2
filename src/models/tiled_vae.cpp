// Tiled decoding and encoding: bounded memory for pictures of any size.
// Source of the scheme: ComfyUI's VAEDecodeTiled as users know it (three tilings, linear blending).
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "models/vae.h"

namespace atelier {
namespace {

using at::Tensor;
using Convert = std::function<Tensor(const Tensor&)>;

// One tiling: window and shared border in input cells.
struct Window {
  int64_t height, width, overlap;
};

// Where windows of `size` start along an axis of `length`, neighbours sharing `overlap`.
std::vector<int64_t> starts(int64_t length, int64_t size, int64_t overlap) {
  std::vector<int64_t> result{0};
  while (result.back() + size < length)
    result.push_back(std::min(result.back() + size - overlap, length - size));
  return result;
}

// Weights along one axis of a tile: rising over the first `border` cells, falling over the last.
Tensor ramp(int64_t length, int64_t border) {
  const Tensor place = at::arange(1, length + 1, at::kFloat);
  const double width = static_cast<double>(std::max<int64_t>(border, 1));
  return at::min(place, length + 1 - place).div(width).clamp_max(1.0);
}

// Sizes of input and output are related by up/down: out = in * up / down.
struct Scale {
  int64_t up = 1, down = 1;
  int64_t operator()(int64_t n) const { return n * up / down; }
};

// Adds one tiling of `input` to `sum`, already divided by its blending weights.
void add_tiling(const Tensor& input, const Window& window, Scale scale, const Convert& convert,
                Tensor& sum, const std::function<void()>& step) {
  const int64_t height = std::min(window.height, input.size(2));
  const int64_t width = std::min(window.width, input.size(3));
  Tensor total, weights = at::zeros({1, 1, scale(input.size(2)), scale(input.size(3))});
  for (const int64_t y : starts(input.size(2), height, window.overlap)) {
    for (const int64_t x : starts(input.size(3), width, window.overlap)) {
      const Tensor tile = convert(input.narrow(2, y, height).narrow(3, x, width));
      if (!total.defined())
        total = at::zeros({input.size(0), tile.size(1), weights.size(2), weights.size(3)});
      const int64_t border = scale(window.overlap);
      const Tensor mask = ramp(tile.size(2), border).unsqueeze(1) * ramp(tile.size(3), border);
      const auto place = [&](const Tensor& t) {
        return t.narrow(2, scale(y), tile.size(2)).narrow(3, scale(x), tile.size(3));
      };
      place(total).add_(tile * mask);
      place(weights).add_(mask);
      step();
    }
  }
  total.div_(weights);
  sum = sum.defined() ? sum.add_(total) : total;
}

void check(const Tiling& tiling, int64_t factor) {
  if (tiling.tile < 8 * factor || tiling.tile % factor != 0)
    throw Error(ErrorCode::invalid_argument,
                {.subject = "tile size",
                 .expected = "a multiple of " + std::to_string(factor) + ", at least " +
                             std::to_string(8 * factor),
                 .found = std::to_string(tiling.tile)});
  if (tiling.overlap < 0 || tiling.overlap > tiling.tile / 4 || tiling.overlap % factor != 0)
    throw Error(ErrorCode::invalid_argument,
                {.subject = "tile overlap",
                 .expected = "a multiple of " + std::to_string(factor) + " from 0 to " +
                             std::to_string(tiling.tile / 4) + ", a quarter of the tile",
                 .found = std::to_string(tiling.overlap)});
}

Tensor tiled(const Tensor& input, int64_t tile, int64_t overlap, Scale scale,
             const Convert& convert, const TileProgress& progress) {
  const Window windows[] = {
      {tile, tile, overlap}, {2 * tile, tile / 2, overlap}, {tile / 2, 2 * tile, overlap}};
  int64_t count = 0, done = 0;
  for (const Window& w : windows)
    count += static_cast<int64_t>(
        starts(input.size(2), std::min(w.height, input.size(2)), w.overlap).size() *
        starts(input.size(3), std::min(w.width, input.size(3)), w.overlap).size());
  const auto step = [&] {
    ++done;
    if (progress) progress(static_cast<double>(done) / static_cast<double>(count));
  };
  Tensor sum;
  for (const Window& w : windows) add_tiling(input, w, scale, convert, sum, step);
  return sum.div_(static_cast<double>(std::size(windows)));
}

}  // namespace

Tensor decode_tiled(const Vae& vae, const Tensor& latent, const Tiling& tiling,
                    const TileProgress& progress) {
  const int64_t factor = vae.factor();
  check(tiling, factor);
  check_latent(vae, latent);
  return tiled(
      latent, tiling.tile / factor, tiling.overlap / factor, {.up = factor},
      [&](const Tensor& tile) { return vae.decode(tile); }, progress);
}

Tensor encode_tiled(const Vae& vae, const Tensor& picture, const Tiling& tiling,
                    const TileProgress& progress) {
  const int64_t factor = vae.factor();
  check(tiling, factor);
  check_picture(vae, picture);
  // Half tiles must start and end on latent cells as well.
  const int64_t tile = (tiling.tile / (2 * factor)) * 2 * factor;
  return tiled(
      picture, tile, tiling.overlap, {.up = 1, .down = factor},
      [&](const Tensor& part) { return vae.encode(part); }, progress);
}

}  // namespace atelier
