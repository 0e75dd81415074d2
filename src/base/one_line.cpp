// Escapes, and cuts between characters.
#include "base/one_line.h"

#include <fmt/format.h>

#include "base/utf8.h"

namespace atelier {
namespace {

constexpr size_t kLongestQuote = 200, kLongestText = 2000;  // bytes

struct Escape {
  char32_t first, last;
  std::string_view text;  // empty: the bytes in hexadecimal
};
constexpr Escape kEscapes[] = {
    {'\n', '\n', "\\n"}, {'\r', '\r', "\\r"}, {'\t', '\t', "\\t"},
    {0, 0x1F, {}},       {0x7F, 0x9F, {}},    {0x2028, 0x2029, {}},
};

const Escape* escape_of(char32_t code_point) {
  for (const Escape& row : kEscapes)
    if (code_point >= row.first && code_point <= row.last) return &row;
  return nullptr;
}

void append_bytes(std::string& text, std::string_view bytes) {
  for (const char c : bytes) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
}

bool may_open(std::string_view text, size_t quote) {
  return quote == 0 || text[quote - 1] == ' ' || text[quote - 1] == '(';
}

/// The quote that closes the one before `begin`: one that no letter follows.
size_t closing(std::string_view text, size_t begin) {
  const auto letter = [&](size_t at) {
    const auto c = at < text.size() ? static_cast<unsigned char>(text[at]) : ' ';
    return (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
  };
  size_t end = text.find('\'', begin);
  while (end != text.npos && letter(end + 1)) end = text.find('\'', end + 1);
  return end;
}

}  // namespace

std::string one_line(std::string_view text) {
  std::string line;
  line.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t code_point = next_code_point(text, at);
    const std::string_view bytes = text.substr(begin, at - begin);
    const Escape* escape = escape_of(code_point);
    if (escape && !escape->text.empty())
      line += escape->text;
    else if (escape || (code_point == kReplacementCharacter && bytes != "\xEF\xBF\xBD"))
      append_bytes(line, bytes);
    else
      line += bytes;
  }
  return line;
}

std::string shortened(std::string_view text, size_t most) {
  if (text.size() <= most) return std::string(text);
  while (most > 0 && (static_cast<unsigned char>(text[most]) & 0xC0) == 0x80) --most;
  return std::string(text.substr(0, most)) + "...";
}

std::string shorten_quotes(std::string_view text) {
  std::string result;
  size_t at = 0;
  for (size_t open = 0; (open = text.find('\'', at)) != text.npos;) {
    const size_t close = may_open(text, open) ? closing(text, open + 1) : text.npos;
    result += text.substr(at, open + 1 - at);
    at = open + 1;
    if (close == text.npos) continue;
    result += shortened(text.substr(at, close - at), kLongestQuote) + "'";
    at = close + 1;
  }
  result += text.substr(at);
  return shortened(result, kLongestText);
}

}  // namespace atelier
