// Bringing a tensor that a file holds in another order into the order of its shape.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "formats/tensor_source.h"

namespace atelier {

/// Copies the elements of `info`, which lie in `file` from its offset on `strides` (in elements)
/// apart. The reader has checked that every one of them lies in the file.
std::vector<std::byte> gather(std::span<const std::byte> file, const TensorInfo& info,
                              const Shape& strides);

}  // namespace atelier
