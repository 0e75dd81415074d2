// Reading and writing UTF-8 that may be invalid.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace atelier {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

/// The code point at `at`, which moves past it; an invalid sequence gives U+FFFD and moves past
/// its longest valid beginning, at least one byte (Unicode 15, section 3.9). `at` < size.
char32_t next_code_point(std::string_view text, size_t& at);

/// Appends a code point (a scalar value) as UTF-8.
void append_utf8(std::string& text, char32_t code_point);

/// The text with every invalid sequence replaced by U+FFFD.
std::string valid_utf8(std::string_view text);

}  // namespace atelier
