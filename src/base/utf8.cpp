// The table of well-formed UTF-8 sequences, and what follows from it.
#include "base/utf8.h"

#include <array>

namespace atelier {
namespace {

/// Sequences by lead byte: the range of the second byte depends on it, later ones are 80..BF.
struct Lead {
  unsigned char first, last;
  int length;
  unsigned char second_first, second_last;
};

constexpr std::array kLeads = {
    Lead{0xC2, 0xDF, 2, 0x80, 0xBF}, Lead{0xE0, 0xE0, 3, 0xA0, 0xBF},
    Lead{0xE1, 0xEC, 3, 0x80, 0xBF}, Lead{0xED, 0xED, 3, 0x80, 0x9F},
    Lead{0xEE, 0xEF, 3, 0x80, 0xBF}, Lead{0xF0, 0xF0, 4, 0x90, 0xBF},
    Lead{0xF1, 0xF3, 4, 0x80, 0xBF}, Lead{0xF4, 0xF4, 4, 0x80, 0x8F},
};

const Lead* lead_of(unsigned char byte) {
  for (const Lead& lead : kLeads)
    if (byte >= lead.first && byte <= lead.last) return &lead;
  return nullptr;
}

}  // namespace

char32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at++);
  if (first < 0x80) return first;
  const Lead* lead = lead_of(first);
  if (!lead) return kReplacementCharacter;
  char32_t code_point = first & (0x7Fu >> lead->length);
  for (int i = 1; i < lead->length; ++i) {
    const unsigned char low = i == 1 ? lead->second_first : 0x80;
    const unsigned char high = i == 1 ? lead->second_last : 0xBF;
    if (at >= text.size() || byte(at) < low || byte(at) > high) return kReplacementCharacter;
    code_point = code_point << 6 | (byte(at++) & 0x3Fu);
  }
  return code_point;
}

void append_utf8(std::string& text, char32_t code_point) {
  const auto put = [&](char32_t value) { text += static_cast<char>(value); };
  if (code_point < 0x80) return put(code_point);
  if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
  }
  put(0x80 | (code_point & 0x3F));
}

std::string valid_utf8(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  for (size_t at = 0; at < text.size();) append_utf8(valid, next_code_point(text, at));
  return valid;
}

}  // namespace atelier
