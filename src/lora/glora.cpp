// GLoRA: low-rank products added to the weight and multiplied with it.
// Source: Chavan et al. 2023, arXiv:2306.07967, equation 10, as far as LyCORIS trains it; its early
//   versions stored both products the other way round.
// Shapes: O rows, I channels in, k kernel, r rank.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include "lora/change.h"

namespace atelier {
namespace {

/// W + s (W A1 A2 + B1 B2): A1 [I, r], A2 [r, I], B1 [O, r], B2 [r, I * k].
class GloraChange final : public Change {
 public:
  GloraChange(at::Tensor a1, at::Tensor a2, at::Tensor b1, at::Tensor b2, double scale)
      : a1_(std::move(a1)),
        a2_(std::move(a2)),
        b1_(std::move(b1)),
        b2_(std::move(b2)),
        scale_(scale) {}
  int64_t rows() const override { return b1_.size(0); }
  int64_t columns() const override { return b2_.size(1); }
  Bytes bytes() const override { return bytes_of({a1_, a2_, b1_, b2_}); }
  void apply(at::Tensor& weight, double strength) const override {
    const int64_t in = a1_.size(0), kernel = columns() / in;
    const at::Tensor taps = weight.view({rows(), in, kernel}).transpose(1, 2);  // [O, k, I]
    at::Tensor moved = at::matmul(at::matmul(taps, a1_), a2_).transpose(1, 2).contiguous();
    at::Tensor sum = moved.view({rows(), columns()});
    sum.addmm_(b1_, b2_);
    weight.view({rows(), columns()}).add_(sum, strength * scale_);
  }

 private:
  at::Tensor a1_, a2_, b1_, b2_;  // fp32
  double scale_;
};

// Whether the four fit one another in this order.
bool fits(const at::Tensor& a1, const at::Tensor& a2, const at::Tensor& b1, const at::Tensor& b2,
          int64_t in, int64_t columns) {
  return a1.size(0) == in && a1.size(1) == a2.size(0) && a2.size(1) == in &&
         b1.size(1) == b2.size(0) && b2.size(1) == columns;
}

}  // namespace

ChangePtr make_glora(const LoraModule& module, const WeightForm& form) {
  using enum LoraRole;
  const at::Tensor a1 = as_matrix(module.tensor(glora_a1)), a2 = as_matrix(module.tensor(glora_a2)),
                   b1 = as_matrix(module.tensor(glora_b1));
  const at::Tensor b2 = module.has(glora_bm) ? through_core(module, glora_bm, glora_b2)
                                             : as_matrix(module.tensor(glora_b2));
  const int64_t columns = form.columns, in = columns / form.kernel;
  if (fits(a1, a2, b1, b2, in, columns))
    return std::make_shared<GloraChange>(a1, a2, b1, b2, scale_of(module, a2.size(0)));
  require(fits(a2, a1, b2, b1, in, columns), module, glora_a1,
          fmt::format("products a1 a2 of [{}, {}] and b1 b2 of [rows, {}]", in, in, columns));
  return std::make_shared<GloraChange>(a2, a1, b2, b1, scale_of(module, a1.size(0)));
}

}  // namespace atelier
