// Decodes what a reader let through: hostile blocks may give any numbers, but only those.
#pragma once

#include <vector>

#include "checks.h"
#include "quant/codec/codec.h"

namespace atelier::fuzz {

inline void decode_tensors(const FileContents& contents, std::span<const std::byte> file) {
  constexpr uint64_t kAtMost = 1 << 16;  // elements
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
