// Several pictures as one.
#pragma once

#include <cstdint>
#include <span>

#include "media/image.h"

namespace atelier {

/// Pictures in reading order on a dark grey ground, `columns` in a row, with a gap between them.
/// Cells have the size of the largest. Throws `unsupported` if the sheet would exceed what a
/// picture may measure.
Image contact_sheet(std::span<const Image> pictures, int32_t columns);

/// Columns for a sheet of `runs` prompts with `batch` pictures each: a row per prompt if there are
/// several of each, else nearly a square.
int32_t sheet_columns(int64_t runs, int64_t batch);

}  // namespace atelier
