// The fit: patches of random constant latents, decoded, against the colour of their middles.
#include "pipeline/latent_colours.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/ones.h>

#include "sampling/noise.h"

namespace atelier {
namespace {

constexpr int64_t kRows = 6;  // of patches
constexpr int64_t kPatchesPerUnknown = 12;
constexpr int64_t kPatch = 4;  // latent cells along a patch's side
constexpr uint64_t kSeed = 1;

/// Mean colour of each patch's inner half: pictures [1, 3, H, W] -> [patches, 3].
at::Tensor middles(const at::Tensor& picture, int64_t columns) {
  const int64_t side = picture.size(2) / kRows;
  const int64_t margin = side / 4;
  return picture.view({3, kRows, side, columns, side})
      .slice(2, margin, side - margin)
      .slice(4, margin, side - margin)
      .mean({2, 4})
      .view({3, kRows * columns})
      .t();
}

}  // namespace

LatentColours::LatentColours(const Vae& vae, double spread, double middle) {
  const int64_t channels = vae.latent_channels();
  const int64_t columns = kPatchesPerUnknown * (channels + 1) / kRows;
  const at::Tensor cells = initial_noise({1, channels, kRows, columns}, kSeed) * spread + middle;
  const at::Tensor patches = cells.repeat_interleave(kPatch, 2).repeat_interleave(kPatch, 3);
  const at::Tensor colours = middles(vae.decode(patches) * 0.5 + 0.5, columns).to(at::kDouble);
  const at::Tensor inputs =
      at::cat({cells.view({channels, -1}).t(), at::ones({kRows * columns, 1})}, 1).to(at::kDouble);
  const at::Tensor solution =
      at::linalg_solve(inputs.t().matmul(inputs), inputs.t().matmul(colours)).to(at::kFloat);
  weight_ = solution.slice(0, 0, channels);
  bias_ = solution[channels];
}

at::Tensor LatentColours::draw(const at::Tensor& latent) const {
  const at::Tensor cells = latent.to(at::kCPU, at::kFloat).permute({0, 2, 3, 1});
  return (cells.matmul(weight_) + bias_).clamp(0, 1).permute({0, 3, 1, 2}).contiguous();
}

}  // namespace atelier
