// Decodes what a reader let through: hostile blocks may give any numbers, but only those, and the
// same by every instruction set, all or in part.
#pragma once

#include <algorithm>
#include <vector>

#include "checks.h"
#include "formats/scaled_source.h"
#include "quant/codec/codec.h"
#include "quant/codec/tables.h"

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

/// `bytes` through the decoders of every instruction set, which give `wanted`.
inline void require_same_of_all(std::span<const std::byte> bytes, const TensorInfo& info,
                                Number number, std::span<const std::byte> wanted) {
  std::vector<std::byte> out(wanted.size());
  for (const CodecTable& table : codec_tables())
    for (const EncodingTraits& row : table.decoders) {
      if (row.encoding != info.encoding) continue;
      row.decode[static_cast<size_t>(number)](bytes.data(), info.elements(), out.data());
      ATELIER_FUZZ_REQUIRE(std::ranges::equal(out, wanted));
    }
}

/// A part from within, which is that of the whole.
inline void require_same_of_part(std::span<const std::byte> bytes, const TensorInfo& info,
                                 Number number, std::span<const std::byte> whole,
                                 std::string_view name) {
  const auto width = static_cast<uint64_t>(number_bytes(number));
  const uint64_t elements = whole.size() / width, first = elements / 3;
  std::vector<std::byte> out((elements - first - elements / 4) * width);
  decode_range(bytes, info, static_cast<int64_t>(first), number, out, SerialParallel(), name);
  ATELIER_FUZZ_REQUIRE(std::ranges::equal(out, whole.subspan(first * width, out.size())));
}

/// Decodes what is scaled by other tensors, all of it and a part.
inline void decode_scaled(const FileContents& contents, std::span<const std::byte> file) {
  const auto source = read_scales(std::make_shared<FoundSource>(contents, file));
  for (const auto& [name, info] : source->tensors()) {
    const auto elements = static_cast<uint64_t>(info.elements());
    if (!info.scaling || elements > kAtMost) continue;
    ATELIER_FUZZ_REQUIRE(info.size == encoded_size(info.shape, info.encoding, name));
    const auto bytes = source->bytes(name);
    for (const Number number : {Number::f32, Number::bf16, Number::f16}) {
      std::vector<std::byte> out(elements * static_cast<uint64_t>(number_bytes(number)));
      decode_range(bytes, info, 0, number, out, SerialParallel(), name);
      require_same_of_part(bytes, info, number, out, name);
    }
  }
}

inline void decode_tensors(const FileContents& contents, std::span<const std::byte> file) {
  for (const auto& [name, info] : contents.tensors) {
    const auto elements = static_cast<uint64_t>(info.elements());
    if (info.strided || elements > kAtMost || !decodable(info.encoding)) continue;
    const auto bytes = file.subspan(info.offset, info.size);
    for (const Number number : {Number::f32, Number::bf16, Number::f16}) {
      std::vector<std::byte> out(elements * static_cast<uint64_t>(number_bytes(number)));
      decode(bytes, info.encoding, number, out, SerialParallel(), name);
      require_same_of_all(bytes, info, number, out);
      require_same_of_part(bytes, info, number, out, name);
    }
  }
}

}  // namespace atelier::fuzz
