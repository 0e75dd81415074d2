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

/// The scales of one tensor. With its elements in order as rows of `columns`, element (r, c) is its
/// code times scale number (r / tile_rows) * (columns / tile_columns, rounded up) + c /
/// tile_columns. Sizes are checked where it is made; the spans live as long as the source.
struct Scaling {
  std::string name;  // of the tensor that holds the scales, for messages
  std::span<const std::byte> scales;  // of any alignment
  Encoding encoding = Encoding::f32;  // f32, f16 or bf16; u8 where `nested`
  int64_t columns = 1, tile_rows = 1, tile_columns = 1;
  float factor = 1;  // each scale is multiplied by it first
  std::optional<NestedScales> nested = {};
};

}  // namespace atelier
