// What `--type` may name.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "formats/encoding.h"

namespace atelier {

/// What `--type` names: the encoding of most matrices, and of those with a role of their own.
struct QuantType {
  std::string_view name;  // "Q4_K_M"
  std::string_view about;
  Encoding plain, value, fused, down;
  uint32_t gguf_file_type;  // general.file_type of GGUF
  bool everything = false;  // a float type: every tensor, whatever its role
};

/// All of them.
std::span<const QuantType> quant_types();
/// By name or by what others call it ("Q4_K"), without regard to case. Throws `invalid_argument`
/// with the nearest, or saying that the type can only be read.
const QuantType& quant_type(std::string_view name);

}  // namespace atelier
