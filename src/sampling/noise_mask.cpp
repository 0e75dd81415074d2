// Fits masks to latents and blends by them around each evaluation.
#include "sampling/noise_mask.h"

#include <ATen/ATen.h>

#include <string>

#include "base/error.h"
#include "sampling/arithmetic.h"

namespace atelier {
namespace {

[[noreturn]] void throw_bad_mask(const Tensor& mask) {
  throw Error(
      ErrorCode::mismatch,
      {"noise mask",
       "[height, width], [batch, height, width] or [batch, channels, height, "
       "width], none of them 0",
       std::to_string(mask.dim()) + " dimensions, " + std::to_string(mask.numel()) + " values"});
}

/// Dimension `dim` repeated and cut to `size`.
Tensor repeat_to(const Tensor& x, int64_t dim, int64_t size) {
  const int64_t have = x.size(dim);
  if (have == size) return x;
  std::vector<int64_t> times(static_cast<size_t>(x.dim()), 1);
  times[static_cast<size_t>(dim)] = (size + have - 1) / have;
  return x.repeat(times).narrow(dim, 0, size);
}

Tensor resize_pictures(const Tensor& mask, at::IntArrayRef shape) {
  const Tensor pictures =
      mask.dim() == 4 ? mask : mask.reshape({-1, 1, mask.size(-2), mask.size(-1)});
  return at::upsample_bilinear2d(pictures, {shape[2], shape[3]}, false);
}

Tensor resize_frames(const Tensor& mask, at::IntArrayRef shape) {
  const Tensor frames =
      mask.dim() == 5 ? mask : mask.reshape({1, 1, -1, mask.size(-2), mask.size(-1)});
  return at::upsample_trilinear3d(frames, {shape[2], shape[3], shape[4]}, false);
}

}  // namespace

Tensor fit_mask(const Tensor& mask, at::IntArrayRef shape) {
  const bool video = shape.size() == 5;
  if (!mask.defined() || mask.dim() < 2 || mask.dim() > (video ? 5 : 4) || mask.numel() == 0)
    throw_bad_mask(mask);
  const Tensor numbers = mask.to(at::kCPU, at::kFloat);
  const Tensor resized = video ? resize_frames(numbers, shape) : resize_pictures(numbers, shape);
  return repeat_to(repeat_to(resized, 1, shape[1]), 0, shape[0]).contiguous();
}

Denoise masked(const ModelSampling& model, Denoise inner, Tensor mask, Tensor noise,
               Tensor latent) {
  return [&model, inner = std::move(inner), mask = std::move(mask), noise = std::move(noise),
          latent = std::move(latent)](const Tensor& x, double sigma) {
    const Tensor outside = model.add_noise(sigma, noise, latent);
    Denoised answer = inner(blend(outside, x, mask), sigma);
    answer.guided = blend(latent, answer.guided, mask);
    return answer;
  };
}

}  // namespace atelier
