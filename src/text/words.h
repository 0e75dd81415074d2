// How CLIP's tokenizer cleans text and cuts it into words.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace atelier {

/// The text in Unicode's composed form (NFC), lower-cased character by character. Runs of more
/// than 256 combining marks are composed piecewise, which keeps the time linear.
/// `text` is valid UTF-8.
std::string normalise(std::string_view text);

/// Calls `word` for each word of normalised text, in order: contractions ('s 't 're 've 'm 'll
/// 'd), runs of letters, single number characters, runs of anything else. White space only
/// separates.
void for_each_word(std::string_view text, const std::function<void(std::string_view)>& word);

}  // namespace atelier
