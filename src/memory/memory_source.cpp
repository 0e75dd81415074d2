// Tensors in memory under names.
#include "memory/memory_source.h"

#include <algorithm>

#include "base/error.h"
#include "quant/decode.h"

namespace atelier {
namespace {

constexpr std::pair<at::ScalarType, Encoding> kStored[] = {
    {at::kDouble, Encoding::f64},
    {at::kFloat, Encoding::f32},
    {at::kHalf, Encoding::f16},
    {at::kBFloat16, Encoding::bf16},
    {at::kFloat8_e4m3fn, Encoding::f8_e4m3},
    {at::kFloat8_e5m2, Encoding::f8_e5m2},
};

Encoding encoding_of(at::ScalarType dtype, const std::string& name) {
  for (const auto& [known, encoding] : kStored)
    if (known == dtype) return encoding;
  throw Error(ErrorCode::unsupported, {.subject = name,
                                       .expected = "a tensor of floating-point numbers",
                                       .found = c10::toString(dtype)});
}

}  // namespace

void MemorySource::put(const std::string& name, const at::Tensor& tensor) {
  const at::Tensor held = tensor.contiguous();
  table_[name] = {.shape = held.sizes().vec(),
                  .encoding = encoding_of(held.scalar_type(), name),
                  .size = held.nbytes()};
  held_[name] = held;
}

void MemorySource::put(const std::string& name, const Shape& shape, Encoding encoding,
                       std::span<const std::byte> bytes) {
  const at::Tensor held = at::empty({static_cast<int64_t>(bytes.size())}, at::dtype(at::kByte));
  std::ranges::copy(bytes, static_cast<std::byte*>(held.mutable_data_ptr()));
  table_[name] = {.shape = shape, .encoding = encoding, .size = bytes.size()};
  held_[name] = held;
}

void MemorySource::scale(const std::string& name, Scaling scaling) {
  table_.at(name).scaling = std::make_shared<const Scaling>(std::move(scaling));
}

void MemorySource::remove(const std::string& name) {
  table_.erase(name);
  held_.erase(name);
}

std::span<const std::byte> MemorySource::bytes(std::string_view name) const {
  const auto found = held_.find(name);
  if (found == held_.end())
    throw Error(ErrorCode::not_found,
                {.subject = label_, .expected = "tensor " + std::string(name)});
  return {static_cast<const std::byte*>(found->second.const_data_ptr()), found->second.nbytes()};
}

}  // namespace atelier
