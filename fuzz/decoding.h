// Decodes what a reader let through: hostile blocks may give any numbers, but only those.
#pragma once

#include <vector>

#include "checks.h"
#include "formats/scaled_source.h"
#include "quant/codec/codec.h"

namespace atelier::fuzz {

constexpr uint64_t kAtMost = 1 << 16;  // elements of a tensor that is decoded

/// What a reader found, as a source.
class FoundSource final : public TensorSource {
 public:
  FoundSource(const FileContents& contents, std::span<const std::byte> file)
      : contents_(contents), file_(file) {}
  const TensorTable& tensors() const override { return contents_.tensors; }
  std::span<const std::byte> bytes(std::string_view name) const override {
    const TensorInfo& info = contents_.tensors.find(name)->second;
    return file_.subspan(info.offset, info.size);
  }
  void will_need(std::string_view) const override {}
  std::string label() const override { return "file"; }
  const Metadata& metadata() const override { return contents_.metadata; }

 private:
  const FileContents& contents_;
  std::span<const std::byte> file_;
};

/// Decodes what is scaled by other tensors, all of it and a part.
inline void decode_scaled(const FileContents& contents, std::span<const std::byte> file) {
  const auto source = read_scales(std::make_shared<FoundSource>(contents, file));
  for (const auto& [name, info] : source->tensors()) {
    const auto elements = static_cast<uint64_t>(info.elements());
    if (!info.scaling || elements > kAtMost) continue;
    ATELIER_FUZZ_REQUIRE(info.size == encoded_size(info.shape, info.encoding, name));
    for (const Number number : {Number::f32, Number::bf16, Number::f16})
      for (const uint64_t first : {uint64_t{0}, elements / 3}) {
        std::vector<std::byte> out((elements - first) *
                                   static_cast<uint64_t>(number_bytes(number)));
        decode_range(source->bytes(name), info, static_cast<int64_t>(first), number, out,
                     SerialParallel(), name);
      }
  }
}

inline void decode_tensors(const FileContents& contents, std::span<const std::byte> file) {
  for (const auto& [name, info] : contents.tensors) {
    const auto elements = static_cast<uint64_t>(info.elements());
    if (info.strided || elements > kAtMost || !decodable(info.encoding)) continue;
    for (const Number number : {Number::f32, Number::bf16, Number::f16}) {
      std::vector<std::byte> out(elements * static_cast<uint64_t>(number_bytes(number)));
      decode(file.subspan(info.offset, info.size), info.encoding, number, out, SerialParallel(),
             name);
    }
  }
}

}  // namespace atelier::fuzz
