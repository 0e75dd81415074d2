// DoRA: another change, after which the weight's magnitudes are set.
// Source: Liu et al. 2024, arXiv:2402.09353, equation 5; magnitudes of rows as newer LyCORIS files
//   and PEFT's have them (there [1, O, 1, 1] for kernels), of input channels as the paper's formula
//   and older LyCORIS files.
// Shapes: O rows, I channels in, k kernel.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <limits>

#include "lora/change.h"

namespace atelier {
namespace {

/// W + strength (m V / |V| - W), V = W changed by `inner`.
class DoraChange final : public Change {
 public:
  // magnitude fp32, [O, 1, 1] or [1, I, 1]
  DoraChange(ChangePtr inner, at::Tensor magnitude, bool of_rows)
      : inner_(std::move(inner)), magnitude_(std::move(magnitude)), of_rows_(of_rows) {}
  int64_t rows() const override { return of_rows_ ? magnitude_.size(0) : inner_->rows(); }
  int64_t columns() const override { return inner_->columns(); }
  bool by_rows() const override { return of_rows_ && inner_->by_rows(); }
  Bytes bytes() const override { return inner_->bytes() + bytes_of({magnitude_}); }
  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor changed = weight.clone();
    inner_->apply(changed, 1);
    const int64_t in = of_rows_ ? 1 : magnitude_.size(1);
    const at::Tensor cells = changed.view({weight.size(0), in, -1});
    const at::Tensor norm =
        of_rows_ ? cells.norm(2, at::IntArrayRef{1, 2}, true) : cells.norm(2, {0, 2}, true);
    cells.mul_(magnitude_ / (norm + std::numeric_limits<float>::epsilon()));
    weight.lerp_(changed, strength);
  }

 private:
  ChangePtr inner_;
  at::Tensor magnitude_;
  bool of_rows_;
};

}  // namespace

ChangePtr make_dora(ChangePtr inner, const LoraModule& module, int64_t kernel) {
  const bool rows_meant = module.has(LoraRole::row_magnitude);
  const LoraRole role = rows_meant ? LoraRole::row_magnitude : LoraRole::magnitude;
  const at::Tensor magnitude = module.tensor(role);
  const int64_t count = magnitude.numel(), in = inner->columns() / kernel;
  const int64_t rows = inner->rows() ? inner->rows() : count;
  const bool of_rows =
      count == rows && (rows_meant || magnitude.dim() < 2 || magnitude.size(0) == rows);
  const bool of_channels =
      !rows_meant && count == in && magnitude.dim() > 1 && magnitude.size(0) == 1;
  require(
      of_rows || of_channels, module, role,
      rows_meant ? fmt::format("{} numbers", rows) : fmt::format("[{}, 1] or [1, {}]", rows, in));
  return std::make_shared<DoraChange>(
      std::move(inner), of_rows ? magnitude.reshape({rows, 1, 1}) : magnitude.reshape({1, in, 1}),
      of_rows);
}

}  // namespace atelier
