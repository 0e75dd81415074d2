// Random numbers of a job: the start noise, and the sources stochastic samplers draw from.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

namespace atelier {

using at::Tensor;

/// The start noise of a job: one draw of torch's CPU normal generator (mt19937) over `shape`.
/// shape [B, C, ...] -> float32 on the CPU. Only the low 32 bits of `seed` count.
Tensor initial_noise(at::IntArrayRef shape, uint64_t seed);

/// Overwrites `noise`, contiguous float32 on the CPU, with the start noise of its shape.
void redraw_noise(Tensor& noise, uint64_t seed);

/// Start noise of which batch element k is the `batch_index[k]`-th noise of a batch drawn element
/// by element, so a latent picked out of a batch keeps its noise. shape[0] must be the number of
/// indices. Throws `invalid_argument` on an index below 0 or above 65535.
Tensor initial_noise(at::IntArrayRef shape, uint64_t seed, std::span<const int64_t> batch_index);

/// Where a stochastic sampler gets the noise of a step from. One job, one thread.
class NoiseSource {
 public:
  virtual ~NoiseSource() = default;
  /// Unit noise of x's shape, float32 on the CPU, for the step from `sigma` to `sigma_next`.
  virtual Tensor next(double sigma, double sigma_next) = 0;
};

/// Independent draws in call order from one generator; the sigmas do not matter.
class AncestralNoise : public NoiseSource {
 public:
  AncestralNoise(at::IntArrayRef shape, uint64_t seed);
  Tensor next(double sigma, double sigma_next) override;

 private:
  std::vector<int64_t> shape_;
  at::Generator generator_;
};

}  // namespace atelier
