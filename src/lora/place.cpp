// Rows, transposes and halves: from a LoRA's layout to the model's.
#include "lora/place.h"

namespace atelier {
namespace {

// Rows of the target in the LoRA's layout. What joined matrices are made of is square, of `side`
// rows, all but the last, which has the rest.
int64_t rows_meant(const Target& target, int64_t side) {
  const Extent own = extent_of(target.shape);
  const KeyMeaning& meaning = target.meaning;
  if (meaning.take.transposed) return own.columns;
  if (meaning.take.of > 1) return own.rows * meaning.take.of;
  if (meaning.sources < 2) return own.rows;
  const bool last = meaning.source + 1 == meaning.sources;
  return last ? own.rows - side * static_cast<int64_t>(meaning.source) : side;
}

}  // namespace

Extent extent_of(const Shape& shape) {
  Extent extent{shape.empty() ? 1 : shape[0], 1};
  for (size_t i = 1; i < shape.size(); ++i) extent.columns *= shape[i];
  return extent;
}

WeightForm form_of(const Target& target) {
  const Extent own = extent_of(target.shape);
  if (target.meaning.take.transposed) return {.columns = own.rows};
  const bool convolution = target.shape.size() > 2;
  return {.columns = own.columns,
          .kernel = convolution ? own.columns / target.shape[1] : 1,
          .convolution = convolution};
}

std::optional<PlacedPatch> place(const ChangePtr& change, const Target& target, int64_t side,
                                 bool leading_rows, std::string_view module) {
  const Extent own = extent_of(target.shape);
  const KeyMeaning& meaning = target.meaning;
  const Take& take = meaning.take;
  const int64_t rows = change->rows() ? change->rows() : rows_meant(target, side);
  const int64_t columns = change->columns() ? change->columns() : own.columns;
  if (take.transposed) {
    if (rows != own.columns || (change->columns() && columns != own.rows)) return {};
    return PlacedPatch{transposed(change, own.rows, own.columns), 0, own.rows, 1};
  }
  if (columns != own.columns) return {};
  if (take.of > 1) {
    if (rows != own.rows * take.of) return {};
    if (change->rows() == 0 && change->by_rows()) return PlacedPatch{change, 0, own.rows, 1};
    return PlacedPatch{rows_of(change, take.part * own.rows, own.rows, module), 0, own.rows, 1};
  }
  if (take.halves_exchanged) {
    if (rows != own.rows || rows % 2 != 0) return {};
    return PlacedPatch{halves_exchanged(change), 0, rows, 1};
  }
  if (meaning.sources > 1) {
    const int64_t first = side * static_cast<int64_t>(meaning.source);
    if (rows <= 0 || rows != rows_meant(target, side) || first + rows > own.rows) return {};
    return PlacedPatch{change, first, rows, 1};
  }
  if (leading_rows ? rows > own.rows : rows != own.rows) return {};
  return PlacedPatch{change, 0, rows, 1};
}

}  // namespace atelier
