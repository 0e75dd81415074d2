// Checks of tensors that hold scales, for both kinds of them. Private to this library.
#pragma once

#include <span>
#include <string>

#include "formats/encoding.h"

namespace atelier {

/// Throws `malformed` about the tensor `name`.
[[noreturn]] void bad_scale(const std::string& name, std::string expected, std::string found);

/// Whether scales of rows and tiles may be stored as this: fp32, fp16, bf16.
bool is_scale_encoding(Encoding encoding);

/// Throws `malformed` naming `name` and the index if one of its floats is not finite.
void check_finite_scales(std::span<const std::byte> bytes, Encoding encoding,
                         const std::string& name);

}  // namespace atelier
