// Changes that hold a number for each of the weight: full differences and replacements.
#include <ATen/ATen.h>

#include "lora/change.h"

namespace atelier {
namespace {

class WholeChange : public Change {
 public:
  explicit WholeChange(const at::Tensor& values) : values_(as_matrix(values)) {}
  int64_t rows() const override { return values_.size(0); }
  int64_t columns() const override { return values_.size(1); }
  Bytes bytes() const override { return bytes_of({values_}); }

 protected:
  at::Tensor on(at::Tensor& weight) const { return weight.view({rows(), columns()}); }
  const at::Tensor values_;  // as stored
};

/// W + s D
class Difference final : public WholeChange {
 public:
  Difference(const at::Tensor& values, double scale) : WholeChange(values), scale_(scale) {}
  void apply(at::Tensor& weight, double strength) const override {
    on(weight).add_(values_.to(at::kFloat), strength * scale_);
  }

 private:
  double scale_;
};

/// W + strength (V - W): V itself at strength 1.
class Replacement final : public WholeChange {
 public:
  using WholeChange::WholeChange;
  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor matrix = on(weight);
    if (strength == 1)
      matrix.copy_(values_);
    else
      matrix.lerp_(values_.to(at::kFloat), strength);
  }
};

}  // namespace

ChangePtr make_difference(at::Tensor values, double scale) {
  return std::make_shared<Difference>(values, scale);
}

ChangePtr make_replacement(at::Tensor values) { return std::make_shared<Replacement>(values); }

}  // namespace atelier
