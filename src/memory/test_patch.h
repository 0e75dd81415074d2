// A patch for the tests of what carries patches.
#pragma once

#include <ATen/ATen.h>

#include <optional>
#include <utility>

#include "memory/patch.h"

namespace atelier {

/// weight += strength * up down
class Product final : public WeightPatch {
 public:
  Product(at::Tensor up, at::Tensor down) : factors_{std::move(up), std::move(down)} {}
  void apply(at::Tensor& weight, double strength) const override {
    weight.add_(at::matmul(factors_.up, factors_.down), strength);
  }
  std::optional<LowRank> low_rank() const override { return factors_; }

 private:
  LowRank factors_;
};

}  // namespace atelier
