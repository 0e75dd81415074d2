// The forms come from ICU, in pieces it composes quickly.
#include "text/compose.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include "base/error.h"
#include "base/utf8.h"

namespace atelier {
namespace {

constexpr size_t kMaxMarks = 256;

/// Byte length of the longest beginning of `text` in which no more than kMaxMarks combining marks
/// follow each other: composing sorts them, in quadratic time.
size_t composable_length(std::string_view text) {
  size_t marks = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    marks = c >= 0x300 && u_getCombiningClass(static_cast<UChar32>(c)) != 0 ? marks + 1 : 0;
    if (marks > kMaxMarks) return begin;
  }
  return text.size();
}

}  // namespace

std::string compose(std::string_view text, Composition form) {
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* icu_form = form == Composition::nfc
                                         ? icu::Normalizer2::getNFCInstance(status)
                                         : icu::Normalizer2::getNFKCInstance(status);
  ATELIER_CHECK(U_SUCCESS(status));
  std::string composed;
  icu::StringByteSink<std::string> sink(&composed);
  while (!text.empty()) {
    const size_t length = composable_length(text);
    const icu::StringPiece piece(text.substr(0, length));
    icu_form->normalizeUTF8(0, piece, sink, nullptr, status);
    ATELIER_CHECK(U_SUCCESS(status));
    text.remove_prefix(length);
  }
  return composed;
}

}  // namespace atelier
