// LoHa, the elementwise product of two low-rank ones, and LoKr, a Kronecker product.
// Source: Hyeon-Woo et al. 2021 (FedPara), arXiv:2108.06098, proposition 2 and for kernels
//   proposition 3; Edalati et al. 2022 (KronA), arXiv:2212.10650; Yeh et al. 2023,
//   arXiv:2309.14859, sections 3.3 and 3.4, whose names the files have.
// Shapes: O rows, I channels in, k kernel, r rank.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include "lora/change.h"

namespace atelier {
namespace {

/// A matrix as it is, as a product a b, or as a Tucker product with core t.
struct Factor {
  at::Tensor whole, a, b, t;  // as stored, in matrices; undefined where not used
  int64_t rows() const { return whole.defined() ? whole.size(0) : a.size(t.defined() ? 1 : 0); }
  int64_t columns() const {
    if (whole.defined()) return whole.size(1);
    return b.size(1) * (t.defined() ? t.numel() / t.size(0) / t.size(1) : 1);
  }
  Bytes bytes() const { return bytes_of({whole, a, b, t}); }
  // [rows, columns] fp32
  at::Tensor value() const {
    if (whole.defined()) return whole.to(at::kFloat);
    const at::Tensor left = a.to(at::kFloat), right = b.to(at::kFloat);
    return t.defined() ? tucker(t.to(at::kFloat), left, right) : at::mm(left, right);
  }
};

struct FactorRoles {
  LoraRole a, b;
  std::optional<LoraRole> whole, t;
};

Factor read_factor(const LoraModule& module, const FactorRoles& roles) {
  Factor factor;
  if (roles.whole && module.has(*roles.whole)) {
    factor.whole = as_matrix(module.tensors.at(*roles.whole));
    return factor;
  }
  for (const LoraRole role : {roles.a, roles.b}) module.tensor(role);
  factor.a = as_matrix(module.tensors.at(roles.a));
  factor.b = as_matrix(module.tensors.at(roles.b));
  if (!roles.t || !module.has(*roles.t)) {
    require(factor.a.size(1) == factor.b.size(0), module, roles.a,
            fmt::format("{} columns, the rank", factor.b.size(0)));
    return factor;
  }
  factor.t = module.tensors.at(*roles.t);
  require(factor.t.dim() >= 2 && factor.t.size(0) == factor.a.size(0) &&
              factor.t.size(1) == factor.b.size(0),
          module, *roles.t, fmt::format("[{}, {}, kernel]", factor.a.size(0), factor.b.size(0)));
  return factor;
}

/// W + s (B1 A1 * B2 A2), elementwise.
class LohaChange final : public Change {
 public:
  LohaChange(Factor first, Factor second, double scale)
      : first_(std::move(first)), second_(std::move(second)), scale_(scale) {}
  int64_t rows() const override { return first_.rows(); }
  int64_t columns() const override { return first_.columns(); }
  Bytes bytes() const override { return first_.bytes() + second_.bytes(); }
  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor matrix = weight.view({rows(), columns()});
    matrix.addcmul_(first_.value(), second_.value(), strength * scale_);
  }

 private:
  Factor first_, second_;
  double scale_;
};

/// W + s (W1 (x) W2), where W2 has the kernel.
class LokrChange final : public Change {
 public:
  LokrChange(Factor outer, Factor inner, double scale)
      : outer_(std::move(outer)), inner_(std::move(inner)), scale_(scale) {}
  int64_t rows() const override { return outer_.rows() * inner_.rows(); }
  int64_t columns() const override { return outer_.columns() * inner_.columns(); }
  Bytes bytes() const override { return outer_.bytes() + inner_.bytes(); }
  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor blocks =
        weight.view({outer_.rows(), inner_.rows(), outer_.columns(), inner_.columns()});
    const at::Tensor outer = outer_.value().unsqueeze(1).unsqueeze(3);
    const at::Tensor inner = inner_.value().unsqueeze(0).unsqueeze(2);
    blocks.addcmul_(outer, inner, strength * scale_);
  }

 private:
  Factor outer_, inner_;
  double scale_;
};

}  // namespace

ChangePtr make_loha(const LoraModule& module) {
  using enum LoraRole;
  Factor first = read_factor(module, {loha_w1_a, loha_w1_b, {}, loha_t1});
  Factor second = read_factor(module, {loha_w2_a, loha_w2_b, {}, loha_t2});
  require(first.rows() == second.rows() && first.columns() == second.columns(), module, loha_w2_a,
          fmt::format("a product of [{}, {}], as the first", first.rows(), first.columns()));
  const double scale = scale_of(module, first.b.size(0));
  return std::make_shared<LohaChange>(std::move(first), std::move(second), scale);
}

ChangePtr make_lokr(const LoraModule& module) {
  using enum LoraRole;
  Factor outer = read_factor(module, {lokr_w1_a, lokr_w1_b, lokr_w1, {}});
  Factor inner = read_factor(module, {lokr_w2_a, lokr_w2_b, lokr_w2, lokr_t2});
  // Without a factor of a rank there is nothing for alpha to be a share of, unless PEFT states one.
  const Factor& ranked = inner.whole.defined() ? outer : inner;
  double scale = 1;
  if (!ranked.whole.defined())
    scale = scale_of(module, ranked.b.size(0));
  else if (module.alpha && module.stated_rank && *module.stated_rank > 0)
    scale = *module.alpha / *module.stated_rank;
  return std::make_shared<LokrChange>(std::move(outer), std::move(inner), scale);
}

}  // namespace atelier
