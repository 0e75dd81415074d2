// Decoding into tensors, and tensors that need none.
#include "quant/decode.h"

#include <cstring>
#include <vector>

#include "base/error.h"
#include "device/torch_parallel.h"

namespace atelier {
namespace {

constexpr std::pair<Encoding, at::ScalarType> kSame[] = {
    {Encoding::f32, at::kFloat},
    {Encoding::f16, at::kHalf},
    {Encoding::bf16, at::kBFloat16},
};

Number number_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return Number::f32;
    case at::kBFloat16:
      return Number::bf16;
    case at::kHalf:
      return Number::f16;
    default:
      ATELIER_CHECK(!"weights are decoded to fp32, bf16 or fp16");
  }
}

}  // namespace

void decode(std::span<const std::byte> bytes, Encoding encoding, at::Tensor& out,
            std::string_view tensor) {
  ATELIER_CHECK(out.is_contiguous() && out.is_cpu());
  const std::span to(static_cast<std::byte*>(out.mutable_data_ptr()), out.nbytes());
  decode(bytes, encoding, number_of(out.scalar_type()), to, TorchParallel(), tensor);
}

void decode_range(std::span<const std::byte> bytes, Encoding encoding, int64_t first, int64_t count,
                  at::ScalarType dtype, void* to, std::string_view tensor) {
  const EncodingInfo& info = encoding_info(encoding);
  const Number number = number_of(dtype);
  const int64_t begin = first / info.block_elements;
  const int64_t end = (first + count + info.block_elements - 1) / info.block_elements;
  const auto blocks = bytes.subspan(static_cast<size_t>(begin * info.block_bytes),
                                    static_cast<size_t>((end - begin) * info.block_bytes));
  const int64_t before = first - begin * info.block_elements;
  const int64_t elements = (end - begin) * info.block_elements, size = number_bytes(number);
  const bool whole = elements == count;
  std::vector<std::byte> covering(whole ? 0 : static_cast<size_t>(elements * size));
  const std::span out =
      whole ? std::span(static_cast<std::byte*>(to), static_cast<size_t>(count * size))
            : std::span(covering);
  decode(blocks, encoding, number, out, SerialParallel(), tensor);
  if (!whole) std::memcpy(to, covering.data() + before * size, static_cast<size_t>(count * size));
}

std::optional<at::ScalarType> same_dtype(Encoding encoding) {
  for (const auto& [same, dtype] : kSame)
    if (same == encoding) return dtype;
  return std::nullopt;
}

at::Tensor view_of(std::span<const std::byte> bytes, Encoding encoding, at::ScalarType dtype,
                   const Shape& shape, std::shared_ptr<const void> owner) {
  if (same_dtype(encoding) != dtype) return {};
  const size_t size = c10::elementSize(dtype);
  if (reinterpret_cast<uintptr_t>(bytes.data()) % size != 0) return {};
  const int64_t elements = c10::multiply_integers(shape);
  if (bytes.size() != static_cast<uint64_t>(elements) * size) return {};
  // from_blob takes a writable pointer; nothing in the engine writes to a weight.
  void* const data = const_cast<std::byte*>(bytes.data());
  return at::from_blob(data, shape, [owner = std::move(owner)](void*) {}, at::dtype(dtype));
}

}  // namespace atelier
