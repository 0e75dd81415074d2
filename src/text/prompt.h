// Prompts as people write them: text with weights in parentheses. Read this header first.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace atelier {

/// A piece of a prompt and how much it counts; 1 is ordinary.
struct WeightedText {
  std::string text;
  double weight = 1;
  bool operator==(const WeightedText&) const = default;
};

/// Splits a prompt into pieces of equal weight, as ComfyUI does.
///
/// `(x)` multiplies the weight by 1.1, nested groups multiply again; `(x:w)` sets it to w, taken
/// after the group's last colon, which may not be its first character. A w that is no finite
/// number stays text. `\(` and `\)` are plain characters. A `(` that is never closed is text up
/// to the end, unless the prompt ends in `)`, which then closes it; a surplus `)` is text and
/// makes the next surplus `(` text, too. Empty pieces vanish, so the list may be empty.
/// Weights stay within +-1e30. Invalid UTF-8 becomes U+FFFD. Never throws for any text; time and
/// memory are linear in its length.
std::vector<WeightedText> parse_prompt(std::string_view prompt);

}  // namespace atelier
