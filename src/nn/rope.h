// Rotary position embeddings: each pair of neighbouring channels turns by its token's position.
// Source: Su et al. 2021, RoFormer, section 3.2.2, with one share of the channels per axis as in
// black-forest-labs/flux src/flux/math.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <mutex>
#include <span>
#include <vector>

namespace atelier::nn {

using at::Tensor;

/// Angles of L tokens for heads of D channels. A value; parts share its memory.
class Rope {
 public:
  Rope() = default;
  /// ids [L, A]: the position of each token along A axes, any dtype, on the CPU. Axis a turns
  /// axes[a] channels, an even number, pair i of them by ids * theta^(-2i / axes[a]); computed in
  /// double, kept in fp32 on `device`.
  Rope(const Tensor& ids, std::span<const int64_t> axes, double theta, at::Device device);
  int64_t length() const { return cosines_.defined() ? cosines_.size(0) : 0; }
  /// Those of `count` tokens from `first` on.
  Rope part(int64_t first, int64_t count) const;
  int64_t width() const { return cosines_.defined() ? 2 * cosines_.size(1) : 0; }
  const Tensor& cosines() const { return cosines_; }  // [L, D/2] fp32 contiguous
  const Tensor& sines() const { return sines_; }
  /// x [B, L, H, D] turned, in its dtype, contiguous; fp32 inside.
  Tensor turn(const Tensor& x) const;

 private:
  Tensor cosines_, sines_;  // [L, D/2]
};

/// The table last asked for, so that a run of calls on one shape makes it once.
class RopeCache {
 public:
  /// The last table if it was asked for by the same key, else what `make` returns. Thread-safe.
  Rope get(const std::vector<int64_t>& key, const std::function<Rope()>& make) const;

 private:
  mutable std::mutex mutex_;
  mutable std::vector<int64_t> key_;
  mutable Rope rope_;
};

}  // namespace atelier::nn
