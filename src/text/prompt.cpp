// The weight syntax, read without recursion: parentheses are paired once, then walked with a stack.
#include "text/prompt.h"

#include <unicode/uchar.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/utf8.h"

namespace atelier {
namespace {

constexpr double kGroupFactor = 1.1;
constexpr double kMaxWeight = 1e30;
constexpr size_t kNone = static_cast<size_t>(-1);

/// A parenthesis that is not escaped.
struct Paren {
  size_t at;  // in Parsed::text
  bool open;
  bool literal = false;  // surplus ones
  size_t match = kNone;  // of an open one: index of its partner
  size_t colon = kNone;  // of a closing one: the last colon since the parenthesis before it
};

/// The prompt without escapes, and where its parentheses are.
struct Parsed {
  std::string text;
  std::vector<Paren> parens;
};

Parsed find_parens(std::string_view prompt) {
  Parsed parsed;
  size_t colon = kNone;
  for (size_t at = 0; at < prompt.size();) {
    const char32_t c = next_code_point(prompt, at);
    const size_t here = parsed.text.size();
    if (c == '\\' && at < prompt.size() && (prompt[at] == '(' || prompt[at] == ')')) {
      parsed.text += prompt[at++];
      continue;
    }
    append_utf8(parsed.text, c);
    if (c == ':') colon = here;
    if (c != '(' && c != ')') continue;
    parsed.parens.push_back({.at = here, .open = c == '(', .colon = colon});
    colon = kNone;
  }
  return parsed;
}

/// Pairs the parentheses. After a surplus `)` the level is negative, and each `(` that only brings
/// it back to zero is text.
void pair_parens(std::vector<Paren>& parens) {
  std::vector<size_t> opened;
  size_t surplus = 0;
  for (size_t i = 0; i < parens.size(); ++i) {
    Paren& paren = parens[i];
    if (paren.open && surplus > 0) {
      paren.literal = true;
      --surplus;
    } else if (paren.open) {
      opened.push_back(i);
    } else if (opened.empty()) {
      paren.literal = true;
      ++surplus;
    } else {
      parens[opened.back()].match = i;
      opened.pop_back();
    }
  }
}

bool is_space(char32_t c) {
  return u_isUWhiteSpace(static_cast<UChar32>(c)) || (c >= 0x1C && c <= 0x1F);
}

/// A weight as Python's float() reads it: blanks around it, digits of any script, `_` between two
/// digits. Empty for anything else and for infinities.
std::optional<double> parse_weight(std::string_view text) {
  std::string ascii;
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    const int32_t digit = u_charDigitValue(static_cast<UChar32>(c));
    const bool blank = is_space(c);
    if (!blank && digit < 0 && c >= 0x80) return {};
    ascii += blank ? ' ' : digit >= 0 ? static_cast<char>('0' + digit) : static_cast<char>(c);
  }
  const size_t first = ascii.find_first_not_of(' ');
  if (first == std::string::npos) return {};
  ascii = ascii.substr(first, ascii.find_last_not_of(' ') - first + 1);
  const auto is_digit = [&](size_t i) { return ascii[i] >= '0' && ascii[i] <= '9'; };
  std::string number;
  for (size_t i = 0; i < ascii.size(); ++i) {
    if (ascii[i] != '_') {
      number += ascii[i];
    } else if (i == 0 || i + 1 == ascii.size() || !is_digit(i - 1) || !is_digit(i + 1)) {
      return {};
    }
  }
  const char* begin = number.data() + (number.size() > 1 && number[0] == '+' && number[1] != '-');
  const char* end = number.data() + number.size();
  double value = 0;
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (error != std::errc() || stop != end || !std::isfinite(value)) return {};
  return value;
}

/// A stretch of text being split: [at, end) and the parentheses [paren, end_paren) within it.
struct Frame {
  size_t at, end, paren, end_paren;
  double weight;
};

class Splitter {
 public:
  explicit Splitter(Parsed parsed)
      : text_(std::move(parsed.text)), parens_(std::move(parsed.parens)) {}

  std::vector<WeightedText> run() {
    frames_.push_back({0, text_.size(), 0, parens_.size(), 1});
    while (!frames_.empty()) step(frames_.back());
    return std::move(pieces_);
  }

 private:
  /// Emits the text up to the frame's next group and enters it, or ends the frame.
  void step(Frame& frame) {
    while (frame.paren < frame.end_paren && parens_[frame.paren].literal) ++frame.paren;
    const size_t open = frame.paren;
    const Frame here = frame;
    if (open == here.end_paren) {
      frames_.pop_back();
      return emit(here.at, here.end, here.weight);
    }
    emit(here.at, parens_[open].at, here.weight);
    size_t close = parens_[open].match;
    if (close >= here.end_paren) close = closing_at_end(here);
    if (close == kNone) {
      frames_.pop_back();
      return emit(parens_[open].at, here.end, here.weight);
    }
    frame.at = parens_[close].at + 1;
    frame.paren = close + 1;
    frames_.push_back(group(open, close, here.weight));
  }

  /// The closing parenthesis that is the last character of the frame, if it is one.
  size_t closing_at_end(const Frame& frame) const {
    const size_t last = frame.end_paren - 1;
    return !parens_[last].open && parens_[last].at + 1 == frame.end ? last : kNone;
  }

  Frame group(size_t open, size_t close, double outer) const {
    const Paren &first = parens_[open], &last = parens_[close];
    Frame inner{first.at + 1, last.at, open + 1, close, outer * kGroupFactor};
    if (last.colon != kNone && last.colon > inner.at) {
      const std::string_view tail = text_;
      const auto weight = parse_weight(tail.substr(last.colon + 1, last.at - last.colon - 1));
      if (weight) {
        inner.weight = *weight;
        inner.end = last.colon;
      }
    }
    inner.weight = std::clamp(inner.weight, -kMaxWeight, kMaxWeight);
    return inner;
  }

  void emit(size_t begin, size_t end, double weight) {
    if (begin < end) pieces_.push_back({text_.substr(begin, end - begin), weight});
  }

  std::string text_;
  std::vector<Paren> parens_;
  std::vector<Frame> frames_;
  std::vector<WeightedText> pieces_;
};

}  // namespace

std::vector<WeightedText> parse_prompt(std::string_view prompt) {
  Parsed parsed = find_parens(prompt);
  pair_parens(parsed.parens);
  return Splitter(std::move(parsed)).run();
}

}  // namespace atelier
