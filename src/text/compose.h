// Unicode's composed forms of text that may be hostile.
#pragma once

#include <string>
#include <string_view>

namespace atelier {

enum class Composition { nfc, nfkc };

/// `text` in a composed form. Runs of more than 256 combining marks are composed piecewise, which
/// keeps the time linear. `text` is valid UTF-8.
std::string compose(std::string_view text, Composition form);

}  // namespace atelier
