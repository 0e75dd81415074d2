// A model's tensors in memory and a patch of theirs, for the tests of what reads them by name.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "memory/memory_source.h"
#include "nn/scope.h"

namespace atelier::nn {

inline const KeyLayout kOwn{.name = "own", .signature = ""};

/// up times down, low-rank.
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

/// Tensors put under names, and scopes over them.
struct Names : ::testing::Test {
  std::shared_ptr<MemorySource> source = std::make_shared<MemorySource>("file");
  Residency residency;
  BindReport report;

  void put(const std::string& name, Shape shape) { source->put(name, at::randn(shape)); }
  Scope scope(const KeyLayout& layout = kOwn, const std::string& prefix = "",
              at::ScalarType dtype = at::kFloat) {
    return Scope(std::make_shared<const Binding>(Binding{
        KeyMap(source, prefix, layout), residency, report, {.device = {}, .dtype = dtype}}));
  }
};

}  // namespace atelier::nn
