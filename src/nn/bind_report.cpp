// Wording of binding problems.
#include "nn/bind_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"

namespace atelier {
namespace {
constexpr size_t kMostTold = 6;  // on one line
}

void BindReport::bound(const std::string& canonical, const Shape& shape) {
  manifest_[canonical] = shape;
}

void BindReport::missing(const std::string& canonical, const Shape& wanted) {
  problems_.push_back(fmt::format("missing {} {}", canonical, to_string(wanted)));
}

void BindReport::misshapen(const std::string& canonical, const Shape& found, const Shape& wanted) {
  problems_.push_back(fmt::format("shape of {}: file has {}, model wants {}", canonical,
                                  to_string(found), to_string(wanted)));
}

void BindReport::unscaled(const std::string& file_name, std::string_view encoding) {
  problems_.push_back(
      fmt::format("{} is stored as {} without the scales that would make weights of its numbers",
                  file_name, encoding));
}

void BindReport::unsupported(const std::string& file_name, std::string_view encoding) {
  problems_.push_back(
      fmt::format("{} is stored as {}, which this version cannot decode", file_name, encoding));
}

bool matches_any(std::string_view name, std::span<const std::string_view> patterns) {
  return std::ranges::any_of(patterns, [&](std::string_view pattern) {
    if (pattern.ends_with('*')) return name.starts_with(pattern.substr(0, pattern.size() - 1));
    if (pattern.starts_with('*')) return name.ends_with(pattern.substr(1));
    return name == pattern;
  });
}

void BindReport::check_unused(const KeyMap& keys, std::span<const std::string_view> ignore) {
  for (const auto& [canonical, item] : keys.items()) {
    if (matches_any(canonical, ignore)) continue;
    for (const WeightPart& part : item.parts)
      if (!used_.contains(part.name)) problems_.push_back("unused " + part.name);
  }
}

void BindReport::throw_if_bad(std::string_view label) const {
  if (problems_.empty()) return;
  std::string all =
      fmt::format("{} tensor{} do{} not fit the model", problems_.size(),
                  problems_.size() == 1 ? "" : "s", problems_.size() == 1 ? "es" : "");
  for (size_t i = 0; i < std::min(problems_.size(), kMostTold); ++i)
    all += (i == 0 ? ": " : "; ") + problems_[i];
  if (problems_.size() > kMostTold)
    all += fmt::format("; and {} more", problems_.size() - kMostTold);
  throw Error(ErrorCode::mismatch, {.subject = std::string(label), .expected = all});
}

}  // namespace atelier
