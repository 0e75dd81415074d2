// Stored weights as tensors: read this header and codec/codec.h first.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "formats/tensor_source.h"
#include "quant/codec/codec.h"

namespace atelier {

/// Decodes `bytes` into `out`, a contiguous CPU tensor of fp32, bf16 or fp16 whose element count
/// they hold exactly; rounds to the nearest even by way of fp32. Splits the work over libtorch's
/// threads. Throws `unsupported` for an encoding without decoder and `malformed` for a wrong number
/// of bytes, naming `tensor`.
void decode(std::span<const std::byte> bytes, Encoding encoding, at::Tensor& out,
            std::string_view tensor);

/// Decodes elements of a tensor from `first` on into `out`, contiguous on the CPU, fp32, bf16 or
/// fp16; `bytes` are all of the tensor's. Blocks may begin before and end after the range. Threads
/// and errors as above, and as `decode_range` of the codec for scales.
void decode_range(std::span<const std::byte> bytes, const TensorInfo& info, int64_t first,
                  at::Tensor& out, std::string_view tensor);
/// The same for elements [first, first + count), to `to`, on this thread.
void decode_range(std::span<const std::byte> bytes, const TensorInfo& info, int64_t first,
                  int64_t count, at::ScalarType dtype, void* to, std::string_view tensor);

/// The dtype whose memory equals the stored bytes, if there is one: no decoding is needed then.
std::optional<at::ScalarType> same_dtype(Encoding encoding);
/// The same for a tensor: none if scales change its numbers.
std::optional<at::ScalarType> same_dtype(const TensorInfo& info);

/// A tensor of `shape` that reads `bytes` in place, if they already are `dtype` and aligned for it;
/// undefined otherwise. `owner` lives as long as the tensor. Must not be written to.
at::Tensor view_of(std::span<const std::byte> bytes, Encoding encoding, at::ScalarType dtype,
                   const Shape& shape, std::shared_ptr<const void> owner);

}  // namespace atelier
