// The low-rank patches of quantised matrices, joined to one branch beside them.
#include <algorithm>

#include "base/error.h"
#include "memory/weight.h"

namespace atelier {

std::vector<Operands::SidePart> Operands::side_parts() const {
  std::vector<SidePart> parts;
  if (!beside_) return parts;
  int64_t row = 0;
  for (size_t i = 0; i < patches_.size(); ++i) {
    for (const PlacedPatch& placed : patches_[i]) {
      std::optional<LowRank> change = placed.patch->low_rank();
      ATELIER_CHECK(change && change->up.size(0) == placed.rows &&
                    change->up.size(1) == change->down.size(0));
      const double strength = placed.strength * change->scale;
      parts.push_back({*std::move(change), row + placed.first_row, strength});
    }
    row += operands_[i].shape[0];
  }
  // What changes the same rows lies together, so that rows take few columns.
  std::ranges::stable_sort(parts, {}, &SidePart::first_row);
  return parts;
}

int64_t Operands::side_rank() const {
  int64_t rank = 0;
  for (const SidePart& part : side_parts()) rank += part.change.up.size(1);
  return rank;
}

void Operands::each_side(const SideUser& use) const {
  for (const SidePart& part : side_parts()) use(part.change, part.first_row, part.strength);
}

namespace {

int64_t rows_of(const std::vector<Operand>& operands) {
  int64_t rows = 0;
  for (const Operand& operand : operands) rows += operand.shape[0];
  return rows;
}

}  // namespace

std::vector<TailRange> Operands::side_ranges() const {
  const std::vector<SidePart> parts = side_parts();
  std::vector<int64_t> ends{rows_of(operands_)};  // of runs of rows that the same parts change
  for (const SidePart& part : parts)
    for (const int64_t end : {part.first_row, part.first_row + part.change.up.size(0)})
      if (end > 0) ends.push_back(end);
  std::ranges::sort(ends);
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  if (ends.size() == 1) return {};
  std::vector<TailRange> ranges;
  int64_t begin = 0, last = 0;
  for (const int64_t end : ends) {
    TailRange range{end, -1, last};
    int64_t column = 0;
    for (const auto& [change, first_row, strength] : parts) {
      const int64_t rank = change.up.size(1);
      if (first_row <= begin && first_row + change.up.size(0) > begin) {
        if (range.first < 0) range.first = column;
        range.end = std::max(range.end, column + rank);
      }
      column += rank;
    }
    if (range.first < 0) range.first = range.end;
    ranges.push_back(range);
    begin = end;
    last = range.end;
  }
  return ranges;
}

std::optional<Side> Operands::side() const {
  const std::vector<SidePart> parts = side_parts();
  if (!beside_ || patches_.empty()) return {};
  Side all{{at::zeros({rows_of(operands_), side_rank()}, at::dtype(at::kFloat)), {}},
           side_ranges()};
  std::vector<at::Tensor> downs;
  int64_t column = 0;
  for (const auto& [change, row, strength] : parts) {
    const at::Tensor& up = change.up;
    all.up.narrow(0, row, up.size(0)).narrow(1, column, up.size(1)).copy_(up).mul_(strength);
    downs.push_back(change.down.to(at::kFloat));
    column += up.size(1);
  }
  all.down = at::cat(downs);
  return all;
}

}  // namespace atelier
