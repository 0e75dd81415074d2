// Unicode normal form, lower case and character classes come from ICU.
#include "text/words.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <array>

#include "base/utf8.h"
#include "text/compose.h"

namespace atelier {
namespace {

enum class CharClass { space, letter, number, other };

CharClass class_of(char32_t c) {
  const auto code = static_cast<UChar32>(c);
  const uint32_t category = U_GET_GC_MASK(code);
  if (category & U_GC_L_MASK) return CharClass::letter;
  if (category & U_GC_N_MASK) return CharClass::number;
  return u_isUWhiteSpace(code) ? CharClass::space : CharClass::other;
}

constexpr std::array<std::string_view, 7> kContractions = {"'s", "'t",  "'re", "'ve",
                                                           "'m", "'ll", "'d"};
/// Names of tokens in lower-cased text are a unit, though no token.
constexpr std::array<std::string_view, 2> kTokenNames = {"<|startoftext|>", "<|endoftext|>"};

template <size_t N>
size_t leading(std::string_view text, const std::array<std::string_view, N>& known) {
  for (std::string_view candidate : known)
    if (text.starts_with(candidate)) return candidate.size();
  return 0;
}

/// End of the run of characters of class `kind` that begins before `at`.
size_t run_end(std::string_view text, size_t at, CharClass kind) {
  while (at < text.size()) {
    size_t next = at;
    if (class_of(next_code_point(text, next)) != kind) break;
    at = next;
  }
  return at;
}

}  // namespace

std::string normalise(std::string_view text) {
  const std::string composed = compose(text, Composition::nfc);
  std::string lower;
  lower.reserve(composed.size());
  for (size_t at = 0; at < composed.size();) {
    const char32_t c = next_code_point(composed, at);
    if (c == 0x130) {
      lower += "i\u0307";  // the one character whose lower case is two
    } else {
      append_utf8(lower, static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
    }
  }
  return lower;
}

void for_each_word(std::string_view text, const std::function<void(std::string_view)>& word) {
  for (size_t at = 0; at < text.size();) {
    const std::string_view rest = text.substr(at);
    if (const size_t size = leading(rest, kTokenNames)) {
      word(rest.substr(0, 2));
      word(rest.substr(2, size - 4));
      word(rest.substr(size - 2, 2));
      at += size;
      continue;
    }
    size_t end = at + leading(rest, kContractions);
    if (end == at) {
      const CharClass kind = class_of(next_code_point(text, end));
      if (kind == CharClass::letter || kind == CharClass::other) end = run_end(text, end, kind);
      if (kind == CharClass::space) {
        at = end;
        continue;
      }
    }
    word(text.substr(at, end - at));
    at = end;
  }
}

}  // namespace atelier
