// Taking strengths off the end of a word until what is left is a file.
#include "app/lora_option.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <optional>
#include <system_error>
#include <vector>

#include "base/error.h"

namespace atelier {
namespace {

constexpr double kMostStrength = 100;
constexpr std::string_view kBlocks = "blocks=";

bool exists(std::string_view path) {
  std::error_code error;
  return std::filesystem::exists(std::filesystem::path(path), error);
}

std::optional<double> number(std::string_view text) {
  if (text.starts_with('+')) text.remove_prefix(1);
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

[[noreturn]] void fail(std::string expected, std::string_view word) {
  throw Error(
      ErrorCode::invalid_argument,
      {.subject = "--lora", .expected = std::move(expected), .found = fmt::format("'{}'", word)});
}

/// For a word that is no file: if one is there before a colon, what stands behind it is wrong.
void refuse_strength(std::string_view rest, std::string_view word) {
  for (size_t colon = rest.rfind(':'); colon != rest.npos && colon > 0;
       colon = rest.rfind(':', colon - 1)) {
    std::error_code none;
    if (!std::filesystem::is_regular_file(rest.substr(0, colon), none)) continue;
    throw Error(ErrorCode::invalid_argument,
                {.subject = "--lora",
                 .expected = fmt::format("at most two numbers and blocks=LIST behind the file '{}'",
                                         rest.substr(0, colon)),
                 .found = fmt::format("'{}'", word.substr(colon)),
                 .hint = "For example FILE:0.8, FILE:0.8:0.5 or FILE:0.8:blocks=IN=1"});
  }
}

}  // namespace

LoraOption parse_lora_option(std::string_view word) {
  LoraOption option;
  std::string_view rest = word;
  std::vector<double> strengths;  // last first
  const auto colon = [&] { return rest.rfind(':'); };
  while (!exists(rest) && colon() != rest.npos) {
    const std::string_view last = rest.substr(colon() + 1);
    if (last.starts_with(kBlocks) && !strengths.empty())
      fail("blocks=LIST behind the strengths", word);
    if (last.starts_with(kBlocks) && option.blocks.empty() && strengths.empty()) {
      option.blocks = last.substr(kBlocks.size());
      if (option.blocks.empty()) fail("strengths after blocks=", word);
    } else {
      const std::optional<double> strength = number(last);
      if (!strength || strengths.size() == 2) break;
      if (!(std::abs(*strength) <= kMostStrength))
        fail(fmt::format("a strength from -{0} to {0}", kMostStrength), word);
      strengths.push_back(*strength);
    }
    rest = rest.substr(0, colon());
  }
  if (!exists(rest)) refuse_strength(rest, word);
  if (rest.empty()) fail("FILE[:strength[:text strength]][:blocks=LIST]", word);
  option.file = rest;
  if (!strengths.empty()) option.strength = option.text_strength = strengths.back();
  if (strengths.size() == 2) option.text_strength = strengths.front();
  return option;
}

}  // namespace atelier
