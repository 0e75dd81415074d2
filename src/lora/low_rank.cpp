// LoRA: a product of two thin matrices, for matrices and for kernels (LoCon), there perhaps with a
// core between them.
// Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; for kernels Yeh et al. 2023,
//   arXiv:2309.14859, section 3.2 and appendix B.
// Shapes: O rows, I channels in, k kernel, r rank.
#include <ATen/ATen.h>

#include "lora/change.h"

namespace atelier {
namespace {

/// W + s B A with up B [O, r] and down A [r, I * k].
class LoraChange final : public Change {
 public:
  LoraChange(at::Tensor up, at::Tensor down, double scale, bool matrix)
      : up_(std::move(up)), down_(std::move(down)), scale_(scale), matrix_(matrix) {}
  int64_t rows() const override { return up_.size(0); }
  int64_t columns() const override { return down_.size(1); }
  Bytes bytes() const override { return bytes_of({up_, down_}); }

  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor matrix = weight.view({rows(), columns()});
    matrix.addmm_(up_.to(at::kFloat), down_.to(at::kFloat), 1, strength * scale_);
  }
  std::optional<LowRank> low_rank() const override {
    if (!matrix_) return {};
    return LowRank{up_, down_, scale_};
  }

 private:
  at::Tensor up_, down_;  // as stored
  double scale_;
  bool matrix_;
};

}  // namespace

ChangePtr make_lora(const LoraModule& module) {
  for (const LoraRole role : {LoraRole::up, LoraRole::down}) {
    module.tensor(role);
    require(module.tensors.at(role).dim() >= 2, module, role, "a matrix or kernel");
  }
  const at::Tensor up = as_matrix(module.tensors.at(LoraRole::up));
  const at::Tensor stored = module.tensors.at(LoraRole::down);
  const bool core = module.has(LoraRole::mid);
  const at::Tensor down =
      core ? through_core(module, LoraRole::mid, LoraRole::down) : as_matrix(stored);
  require(up.size(1) == down.size(0), module, LoraRole::up,
          "as many columns as its other half has rows (the rank, " + std::to_string(down.size(0)) +
              ")");
  const bool matrix = !core && down.size(1) == stored.size(1);
  return std::make_shared<LoraChange>(up, down, scale_of(module, down.size(0)), matrix);
}

}  // namespace atelier
