// Decoding into tensors, and tensors that need none.
#include "quant/decode.h"

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

void decode_range(std::span<const std::byte> bytes, const TensorInfo& info, int64_t first,
                  at::Tensor& out, std::string_view tensor) {
  ATELIER_CHECK(out.is_contiguous() && out.is_cpu());
  const std::span to(static_cast<std::byte*>(out.mutable_data_ptr()), out.nbytes());
  decode_range(bytes, info, first, number_of(out.scalar_type()), to, TorchParallel(), tensor);
}

void decode_range(std::span<const std::byte> bytes, const TensorInfo& info, int64_t first,
                  int64_t count, at::ScalarType dtype, void* to, std::string_view tensor) {
  const Number number = number_of(dtype);
  const std::span out(static_cast<std::byte*>(to),
                      static_cast<size_t>(count * number_bytes(number)));
  decode_range(bytes, info, first, number, out, SerialParallel(), tensor);
}

std::optional<at::ScalarType> same_dtype(const TensorInfo& info) {
  return info.scaling ? std::nullopt : same_dtype(info.encoding);
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
