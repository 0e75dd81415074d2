// Changes made for another layout's weight: some of its rows, its transpose, its halves exchanged.
#include <ATen/ATen.h>

#include "base/error.h"
#include "lora/change.h"

namespace atelier {
namespace {

class View : public Change {
 public:
  explicit View(ChangePtr inner) : inner_(std::move(inner)) {}
  int64_t rows() const override { return inner_->rows(); }
  int64_t columns() const override { return inner_->columns(); }
  bool by_rows() const override { return false; }
  Bytes bytes() const override { return inner_->bytes(); }

 protected:
  const ChangePtr inner_;
};

class RowsView final : public View {
 public:
  RowsView(ChangePtr inner, int64_t first, int64_t count)
      : View(std::move(inner)), first_(first), count_(count) {}
  int64_t rows() const override { return count_; }
  bool by_rows() const override { return true; }
  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor whole = at::zeros({inner_->rows(), weight.numel() / count_});
    const at::Tensor own = whole.narrow(0, first_, count_), matrix = weight.view(own.sizes());
    own.copy_(matrix);
    inner_->apply(whole, strength);
    matrix.copy_(own);
  }
  std::optional<LowRank> low_rank() const override {
    std::optional<LowRank> product = inner_->low_rank();
    if (product) product->up = product->up.narrow(0, first_, count_).contiguous();
    return product;
  }

 private:
  int64_t first_, count_;
};

class Transposed final : public View {
 public:
  Transposed(ChangePtr inner, int64_t rows, int64_t columns)
      : View(std::move(inner)), rows_(rows), columns_(columns) {}
  int64_t rows() const override { return rows_; }
  int64_t columns() const override { return columns_; }
  void apply(at::Tensor& weight, double strength) const override {
    const at::Tensor matrix = weight.view({rows(), columns()});
    at::Tensor turned = matrix.t().contiguous();
    inner_->apply(turned, strength);
    matrix.copy_(turned.t());
  }
  std::optional<LowRank> low_rank() const override {
    const std::optional<LowRank> product = inner_->low_rank();
    if (!product) return {};
    return LowRank{product->down.t().contiguous(), product->up.t().contiguous(), product->scale};
  }

 private:
  int64_t rows_, columns_;
};

// [first; second] -> [second; first]
at::Tensor exchanged(const at::Tensor& x) { return x.roll(x.size(0) / 2, 0); }

class HalvesExchanged final : public View {
 public:
  using View::View;
  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor other = exchanged(weight);
    inner_->apply(other, strength);
    weight.copy_(exchanged(other));
  }
  std::optional<LowRank> low_rank() const override {
    std::optional<LowRank> product = inner_->low_rank();
    if (product) product->up = exchanged(product->up);
    return product;
  }
};

}  // namespace

ChangePtr rows_of(ChangePtr inner, int64_t first, int64_t count, std::string_view module) {
  if (!inner->by_rows())
    throw Error(ErrorCode::unsupported,
                {.subject = std::string(module),
                 .expected = "changes several matrices of the model at once in a way that cannot "
                             "be taken apart",
                 .hint = "Look for a file of the same LoRA made for this model's own layout"});
  return std::make_shared<RowsView>(std::move(inner), first, count);
}

ChangePtr transposed(ChangePtr inner, int64_t rows, int64_t columns) {
  return std::make_shared<Transposed>(std::move(inner), rows, columns);
}

ChangePtr halves_exchanged(ChangePtr inner) {
  return std::make_shared<HalvesExchanged>(std::move(inner));
}

}  // namespace atelier
