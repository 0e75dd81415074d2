// OFT as PEFT and OneTrainer write it: the weight's input turned, in blocks, by orthogonal
// matrices. Source: Qiu et al. 2023, arXiv:2306.07280, section 3.3; Qiu et al. 2025 (OFTv2),
// arXiv:2506.19847,
//   for the input's side and the series in the place of Cayley's inverse; files as huggingface/peft
//   src/peft/tuners/oft/layer.py has them since 0.16 (vectors) and in 0.14 and 0.15 (squares and
//   factors), and as Nerogar/OneTrainer modules/module/.
// Shapes: O rows, I = r * b numbers in a row, in r blocks of b.
#include <ATen/ATen.h>

#include <cmath>

#include "lora/change.h"

namespace atelier {
namespace {

constexpr int64_t kMostSize = 4096;

/// W + strength (c W T - W) with T block-diagonal and c one factor a row.
class InputTurn final : public Change {
 public:
  // turns [r, b, b], or [1, b, b] for all blocks alike; factors [O] or undefined
  InputTurn(at::Tensor turns, at::Tensor factors, int64_t columns)
      : turns_(std::move(turns)), factors_(std::move(factors)), columns_(columns) {}
  int64_t rows() const override { return factors_.defined() ? factors_.size(0) : 0; }
  int64_t columns() const override { return columns_; }
  Bytes bytes() const override { return bytes_of({turns_, factors_}); }
  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor matrix = weight.view({-1, columns_});
    at::Tensor turned = turn(matrix);
    if (factors_.defined()) turned.mul_(factors_.unsqueeze(1));
    matrix.lerp_(turned, strength);
  }

 private:
  at::Tensor turn(const at::Tensor& matrix) const {
    const int64_t size = turns_.size(1);
    if (turns_.size(0) == 1) return at::mm(matrix.view({-1, size}), turns_[0]).view_as(matrix);
    const at::Tensor blocks = matrix.view({-1, turns_.size(0), size}).transpose(0, 1);
    return at::bmm(blocks, turns_).transpose(0, 1).reshape(matrix.sizes());
  }

  at::Tensor turns_, factors_;
  int64_t columns_;
};

// I + 2 q + 2 q^2 + ... + q^(terms - 1), whose last power counts once; never ends at the square.
at::Tensor cayley_series(const at::Tensor& q, int64_t terms) {
  at::Tensor sum = at::eye(q.size(-1)) + at::zeros_like(q), power = q;
  if (terms > 1) sum.add_(q, 2);
  if (terms < 3) return sum;
  const int64_t last = std::max<int64_t>(terms, 4) - 1;
  for (int64_t i = 2; i <= last; ++i) {
    power = at::bmm(power, q);
    sum.add_(power, i == last ? 1 : 2);
  }
  return sum;
}

// [r, b (b - 1) / 2], the upper triangles row by row -> [r, b, b], skew-symmetric.
at::Tensor skew_of(const at::Tensor& vectors, int64_t size) {
  const at::Tensor places = at::triu_indices(size, size, 1);
  const at::Tensor upper = at::zeros({vectors.size(0), size * size});
  upper.index_copy_(1, places[0] * size + places[1], vectors);
  const at::Tensor square = upper.view({vectors.size(0), size, size});
  return square - square.transpose(1, 2);
}

int64_t size_of_blocks(const LoraModule& module, const at::Tensor& vectors) {
  const int64_t count = vectors.dim() == 2 ? vectors.size(1) : 0;
  const int64_t size = std::llround((1 + std::sqrt(1 + 8 * static_cast<double>(count))) / 2);
  require(count > 0 && size <= kMostSize && size * (size - 1) / 2 == count, module,
          LoraRole::oft_vectors, "[blocks, b (b - 1) / 2] with b up to 4096");
  return size;
}

// Where one block stands for all, the weight says how many there are.
int64_t columns_of(const at::Tensor& turns, const WeightForm& form) {
  const int64_t size = turns.size(1);
  return turns.size(0) == 1 && form.columns % size == 0 ? form.columns : turns.size(0) * size;
}

}  // namespace

ChangePtr make_input_oft(const LoraModule& module, const WeightForm& form) {
  at::Tensor vectors = module.tensor(LoraRole::oft_vectors);
  const int64_t size = size_of_blocks(module, vectors);
  if (module.has(LoraRole::oft_scaled))
    vectors = vectors / (2 * std::sqrt(static_cast<double>(size - 1)));
  const at::Tensor q = skew_of(vectors, size);
  // The two are inverse to one another, as PEFT has them.
  const at::Tensor turns =
      module.cayley_terms > 0 ? cayley_series(q, module.cayley_terms) : cayley(-q);
  // OneTrainer multiplies kernels with what PEFT multiplies their input with.
  const bool as_is = form.convolution && !module.by_peft();
  return std::make_shared<InputTurn>(as_is ? turns : turns.transpose(1, 2).contiguous(),
                                     at::Tensor(), columns_of(turns, form));
}

ChangePtr make_older_peft_oft(const LoraModule& module, const WeightForm& form) {
  const at::Tensor squares = module.tensor(LoraRole::oft_squares);
  require(squares.dim() == 3 && squares.size(1) == squares.size(2) && squares.size(1) <= kMostSize,
          module, LoraRole::oft_squares, "[blocks, b, b] with b up to 4096");
  const at::Tensor turns = cayley(0.5 * (squares.transpose(1, 2) - squares));
  if (!module.has(LoraRole::oft_factors)) return make_output_turn(turns);
  return std::make_shared<InputTurn>(turns.transpose(1, 2).contiguous(),
                                     module.tensor(LoraRole::oft_factors).flatten(),
                                     columns_of(turns, form));
}

}  // namespace atelier
