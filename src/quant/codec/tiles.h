// Which scale an element of a tensor is under.
#pragma once

#include <cstdint>

#include "quant/codec/float_codes.h"

namespace atelier {

/// Scales over rows of `columns` elements: one for each tile of `tile_rows` rows and `tile_columns`
/// columns, the last of a row perhaps of fewer, row by row.
struct Tiles {
  int64_t columns, tile_rows, tile_columns;
};

ATELIER_HOST_DEVICE inline int64_t scale_index(const Tiles& tiles, int64_t element) {
  const int64_t row = element / tiles.columns, column = element % tiles.columns;
  const int64_t in_row = (tiles.columns + tiles.tile_columns - 1) / tiles.tile_columns;
  return row / tiles.tile_rows * in_row + column / tiles.tile_columns;
}

}  // namespace atelier
