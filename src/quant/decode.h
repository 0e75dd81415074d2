// Decoding of stored weights: read this header first.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string_view>

#include "formats/encoding.h"
#include "formats/tensor_source.h"

namespace atelier {

/// Whether `decode` knows `encoding`.
bool decodable(Encoding encoding);

/// Decodes `bytes` into `out`, a contiguous CPU tensor of fp32, bf16 or fp16 whose element count
/// they hold exactly; rounds to the nearest even by way of fp32. Splits the work over libtorch's
/// threads. Throws `unsupported` for an encoding without decoder and `malformed` for a wrong number
/// of bytes, naming `tensor`.
void decode(std::span<const std::byte> bytes, Encoding encoding, at::Tensor& out,
            std::string_view tensor);

/// A tensor of `shape` that reads `bytes` in place, if they already are `dtype` and aligned for it;
/// undefined otherwise. `owner` lives as long as the tensor. Must not be written to.
at::Tensor view_of(std::span<const std::byte> bytes, Encoding encoding, at::ScalarType dtype,
                   const Shape& shape, std::shared_ptr<const void> owner);

}  // namespace atelier
