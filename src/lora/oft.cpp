// OFT and BOFT: the weight's rows turned, in blocks, by orthogonal matrices.
// Source: Qiu et al. 2023, arXiv:2306.07280, section 3.3, equation 3 for Cayley's parametrisation
//   and the constraint; Liu et al. 2023 (BOFT), arXiv:2311.06243, section 4; files as LyCORIS and
//   kohya-ss/sd-scripts write them, where alpha is the constraint per row; LyCORIS until 2.0 wrote
//   R itself, in which such factors are, and AUTOMATIC1111's Lora extension reads one beside it.
// Shapes: O = n * b rows in n blocks of b, m butterfly steps.
#include <ATen/ATen.h>

#include "lora/change.h"

namespace atelier {
namespace {

/// W + strength (c R^T W - W) with R block-diagonal and c one factor a row.
class OftChange final : public Change {
 public:
  // turns [n, b, b]; rescale [O] or undefined
  OftChange(at::Tensor turns, at::Tensor rescale)
      : turns_(std::move(turns)), rescale_(std::move(rescale)) {}
  int64_t rows() const override { return turns_.size(0) * turns_.size(1); }
  int64_t columns() const override { return 0; }
  bool by_rows() const override { return false; }
  Bytes bytes() const override { return bytes_of({turns_, rescale_}); }
  void apply(at::Tensor& weight, double strength) const override {
    const at::Tensor blocks = weight.view({turns_.size(0), turns_.size(1), -1});
    at::Tensor turned = at::bmm(turns_.transpose(1, 2), blocks).view({rows(), -1});
    if (rescale_.defined()) turned.mul_(rescale_.unsqueeze(1));
    weight.view({rows(), -1}).lerp_(turned, strength);
  }

 private:
  at::Tensor turns_, rescale_;
};

/// W + strength (c R_m ... R_1 W - W): step i turns pairs of runs of 2^i b/2 rows, dealt out.
class BoftChange final : public Change {
 public:
  // turns [m, n, b, b]; rescale [O] or undefined
  BoftChange(at::Tensor turns, at::Tensor rescale)
      : turns_(std::move(turns)), rescale_(std::move(rescale)) {}
  int64_t rows() const override { return turns_.size(1) * turns_.size(2); }
  int64_t columns() const override { return 0; }
  bool by_rows() const override { return false; }
  Bytes bytes() const override { return bytes_of({turns_, rescale_}); }
  void apply(at::Tensor& weight, double strength) const override {
    at::Tensor turned = weight.view({rows(), -1});
    for (int64_t i = 0; i < turns_.size(0); ++i) turned = step(turned, i);
    if (rescale_.defined()) turned = turned * rescale_.unsqueeze(1);
    weight.view({rows(), -1}).lerp_(turned, strength);
  }

 private:
  // [O, rest] -> the same
  at::Tensor step(const at::Tensor& x, int64_t i) const {
    const int64_t n = turns_.size(1), b = turns_.size(2), run = (int64_t{1} << i) * (b / 2);
    const at::Tensor dealt = x.view({rows() / (2 * run), 2, run, -1}).transpose(1, 2);
    const at::Tensor turned = at::bmm(turns_[i], dealt.reshape({n, b, -1}));
    return turned.view({rows() / (2 * run), run, 2, -1}).transpose(1, 2).reshape({rows(), -1});
  }

  at::Tensor turns_, rescale_;
};

// Of the skew-symmetric part of the blocks, whose norm the constraint bounds.
at::Tensor turns_of(const at::Tensor& blocks, std::optional<double> constraint) {
  at::Tensor q = blocks - blocks.transpose(-2, -1);
  if (constraint && *constraint > 0) {
    const double norm = q.norm().item<double>() + 1e-8;
    if (norm > *constraint) q = q * (*constraint / norm);
  }
  return cayley(q);
}

// [..., n, b, b]
at::Tensor blocks_of(const LoraModule& module, LoraRole role) {
  const at::Tensor blocks = module.tensor(role);
  require(blocks.dim() == 3 || blocks.dim() == 4, module, role, "[blocks, size, size]");
  require(blocks.size(-2) == blocks.size(-1) && blocks.size(-1) <= 4096, module, role,
          "square blocks of up to 4096 rows");
  return blocks;
}

// [rows] or undefined
at::Tensor factors_of(const LoraModule& module, int64_t rows) {
  if (!module.has(LoraRole::rescale)) return {};
  const at::Tensor factors = module.tensor(LoraRole::rescale).flatten();
  require(factors.numel() == rows, module, LoraRole::rescale,
          "one factor for each of " + std::to_string(rows) + " rows");
  return factors;
}

}  // namespace

ChangePtr make_output_turn(at::Tensor turns) {
  return std::make_shared<OftChange>(std::move(turns), at::Tensor());
}

ChangePtr make_first_oft(const LoraModule& module) {
  const at::Tensor turns = blocks_of(module, LoraRole::oft_turns);
  require(turns.dim() == 3, module, LoraRole::oft_turns, "[blocks, size, size]");
  return std::make_shared<OftChange>(turns, factors_of(module, turns.size(0) * turns.size(1)));
}

ChangePtr make_oft(const LoraModule& module) {
  const at::Tensor blocks = blocks_of(module, LoraRole::oft_blocks);
  const bool butterfly = blocks.dim() == 4;
  const int64_t size = blocks.size(-1), rows = blocks.size(-3) * size;
  const at::Tensor factors = factors_of(module, rows);
  std::optional<double> constraint;
  if (module.alpha) constraint = *module.alpha * static_cast<double>(rows);
  const at::Tensor turns = turns_of(blocks, constraint);
  if (!butterfly) return std::make_shared<OftChange>(turns, factors);
  const int64_t steps = blocks.size(0);
  const bool deals = size % 2 == 0 && steps < 32 && rows % (size << (steps - 1)) == 0;
  require(deals, module, LoraRole::oft_blocks, "blocks that can be dealt out at every step");
  return std::make_shared<BoftChange>(turns, factors);
}

}  // namespace atelier
