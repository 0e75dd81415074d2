// How the numbers of a tensor are scaled by other tensors of the same file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "formats/encoding.h"

namespace atelier {

/// Scales that are encoded themselves: code -> table[code] * scales[i / block] + offset, in fp32,
/// each operation rounded. Both spans hold fp32 of any alignment.
struct NestedScales {
  std::span<const std::byte> table;  // of 256
  std::span<const std::byte> scales;
  int64_t block = 256;
  float offset = 0;
};

/// Where the scale of row `r` and column `c` of `columns` lies in the order tensor cores read: by
/// tiles of 128 rows and 4 columns, each as 32 rows of 16, the 32 rows of a quarter below each
/// other. Source: cuBLAS, "1D Block Scaling Factors Layout".
constexpr int64_t swizzled_index(int64_t r, int64_t c, int64_t columns) {
  return (r / 128 * ((columns + 3) / 4) + c / 4) * 512 + r % 32 * 16 + r % 128 / 32 * 4 + c % 4;
}

/// The scales of one tensor. With its elements in order as rows of `columns`, element (r, c) is its
/// code times scale number (r / tile_rows) * (columns / tile_columns, rounded up) + c /
/// tile_columns. Sizes are checked where it is made; the spans live as long as the source.
struct Scaling {
  std::string name;  // of the tensor that holds the scales, for messages
  std::span<const std::byte> scales;  // of any alignment
  Encoding encoding = Encoding::f32;  // a float, 1 to 4 bytes wide; u8 where `nested`
  int64_t columns = 1, tile_rows = 1, tile_columns = 1;
  float factor = 1;  // each scale is multiplied by it first
  bool swizzled = false;  // scales of single rows lie where `swizzled_index` says
  std::optional<NestedScales> nested = {};
};

}  // namespace atelier
