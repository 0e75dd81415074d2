// Brownian motion that can be asked at any time in any order: the noise of the SDE samplers.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "sampling/noise.h"

namespace atelier {

/// A Brownian path over [begin, end] of tensors, fixed by a seed alone.
///
/// Times are rounded to 6 decimals. A node [a, b] with increment W splits in the middle m: left =
/// W (m-a)/(b-a) + sqrt((m-a)(b-m)/(b-a)) N, right = W - left, N seeded from (seed, position of the
/// node). Values never depend on the order of queries. One thread at a time.
/// Source: torchsde's BrownianTree (halfway tree, tolerance 1e-6, pool of 24).
class BrownianTree {
 public:
  /// Throws `invalid_argument` unless begin < end are finite and not negative.
  BrownianTree(at::IntArrayRef shape, double begin, double end, uint64_t seed);

  /// W(to) - W(from), float32; times are clamped to [begin, end], and from may be after to.
  Tensor increment(double from, double to);

 private:
  struct Recent {
    double time = -1;
    Tensor value;
  };
  Tensor value(double time);
  Tensor descend(double time);

  std::vector<int64_t> shape_;
  double begin_, end_;
  uint64_t seed_;
  Tensor whole_;  // W(end) - W(begin)
  Tensor left_;  // buffer of a node's left half
  std::array<Recent, 3> recent_{};  // a step asks again for times of the step before
  size_t oldest_ = 0;
};

/// Noise of a step = increment of a Brownian path between its sigmas / sqrt(|their difference|),
/// negated when sigma falls.
class BrownianNoise : public NoiseSource {
 public:
  /// The path covers [sigma_min, sigma_max]. Errors as BrownianTree.
  BrownianNoise(at::IntArrayRef shape, double sigma_min, double sigma_max, uint64_t seed);
  Tensor next(double sigma, double sigma_next) override;

 private:
  BrownianTree tree_;
};

}  // namespace atelier
