// Text from outside in messages: on one line, harmless to a terminal, and not without end.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace atelier {

/// The text with everything escaped that could end a line or control a terminal: characters below
/// U+0020 and from U+007F to U+009F, line separators, and bytes that are no UTF-8. "\n", "\x1b".
std::string one_line(std::string_view text);

/// The text, or its beginning and "..." if it has more than `most` bytes; cuts between characters.
std::string shortened(std::string_view text, size_t most);

/// The text with every long part in 'quotes' shortened, and all of it if need be.
std::string shorten_quotes(std::string_view text);

}  // namespace atelier
