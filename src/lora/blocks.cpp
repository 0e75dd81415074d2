// Names of blocks, and reading lists of strengths. Longer than most for its tables and messages.
#include "lora/blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/nearest.h"
#include "nn/key_pattern.h"

namespace atelier {
namespace {

constexpr std::string_view kBase = "BASE";
constexpr double kMost = 100;

struct BlockName {
  std::string_view pattern, letters;
};
// In the order of positional lists.
constexpr BlockName kBlocks[] = {
    {"input_blocks.{a}.*", "IN"}, {"middle_block.{b}.*", "M"},  {"output_blocks.{a}.*", "OUT"},
    {"double_blocks.{a}.*", "D"}, {"single_blocks.{a}.*", "S"},
};

/// Lists that leave out the blocks without attention, by family and length.
struct ShortList {
  std::string_view model;
  std::string_view blocks;
};
constexpr std::string_view kSdBlocks =
    "BASE,IN01,IN02,IN04,IN05,IN07,IN08,M00,OUT03,OUT04,OUT05,OUT06,OUT07,OUT08,OUT09,OUT10,OUT11";
constexpr std::string_view kXlBlocks =
    "BASE,IN04,IN05,IN07,IN08,M00,OUT00,OUT01,OUT02,OUT03,OUT04,OUT05";
constexpr ShortList kShortLists[] = {{"sd1", kSdBlocks}, {"sd2", kSdBlocks}, {"sdxl", kXlBlocks}};

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> items;
  for (size_t comma; (comma = text.find(',')) != text.npos; text.remove_prefix(comma + 1))
    items.push_back(text.substr(0, comma));
  items.push_back(text);
  return items;
}

[[noreturn]] void fail(std::string expected, std::string_view found, std::string hint = {}) {
  throw Error(ErrorCode::invalid_argument, {.subject = "block strengths",
                                            .expected = std::move(expected),
                                            .found = fmt::format("'{}'", found),
                                            .hint = std::move(hint)});
}

double number(std::string_view text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) ||
      std::abs(value) > kMost)
    fail(fmt::format("a number from -{0} to {0}", kMost), text);
  return value;
}

std::string upper(std::string_view text) {
  std::string result(text);
  for (char& c : result)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  return result;
}

// BASE and every block the model has, in order.
std::vector<std::string> blocks_of(const WeightShapes& weights) {
  std::vector<std::string> blocks{std::string(kBase)};
  for (const BlockName& row : kBlocks) {
    std::set<std::string> own;
    for (const auto& [name, shape] : weights)
      if (match_key(row.pattern, name)) own.insert(block_of(name));
    blocks.insert(blocks.end(), own.begin(), own.end());
  }
  return blocks;
}

std::vector<std::string> list_of(size_t count, std::string_view model,
                                 const std::vector<std::string>& blocks, std::string_view text) {
  if (count == blocks.size()) return blocks;
  std::string lengths = std::to_string(blocks.size());
  for (const ShortList& row : kShortLists) {
    if (row.model != model) continue;
    const std::vector<std::string_view> names = split(row.blocks);
    if (names.size() == count) return {names.begin(), names.end()};
    lengths += fmt::format(" or {}", names.size());
  }
  fail(fmt::format("{} numbers for this model", lengths), text);
}

}  // namespace

std::string block_of(std::string_view weight) {
  for (const BlockName& row : kBlocks)
    if (const auto match = match_key(row.pattern, weight))
      return fmt::format("{}{:02}", row.letters, std::max<int64_t>(match->indices['a'], 0));
  return std::string(kBase);
}

BlockStrengths::BlockStrengths(std::string_view text, std::string_view model,
                               const WeightShapes& weights) {
  if (text.empty()) return;
  const std::vector<std::string> blocks = blocks_of(weights);
  const std::vector<std::string_view> items = split(text);
  if (text.find('=') == text.npos) {
    const std::vector<std::string> names = list_of(items.size(), model, blocks, text);
    for (size_t i = 0; i < items.size(); ++i) strengths_[names[i]] = number(items[i]);
    return;
  }
  const std::vector<std::string_view> known(blocks.begin(), blocks.end());
  const auto find = [&](const std::string& name) {
    const auto found = std::ranges::find(blocks, name);
    if (found == blocks.end())
      fail(fmt::format("a block of this model ({} to {})", blocks.front(), blocks.back()), name,
           fmt::format("Nearest is {}", nearest(name, known)));
    return found;
  };
  for (const std::string_view item : items) {
    const size_t equals = item.find('=');
    if (equals == item.npos) fail("NAME=NUMBER", item);
    const std::string name = upper(item.substr(0, equals));
    const double value = number(item.substr(equals + 1));
    const auto letters = [&](const BlockName& row) { return row.letters == name; };
    if (std::ranges::any_of(kBlocks, letters)) {
      for (const std::string& block : blocks)
        if (block != kBase && block.starts_with(name)) strengths_[block] = value;
    } else {
      const size_t dash = name.find('-');
      const auto first = find(name.substr(0, dash));
      const auto last = dash == name.npos ? first : find(name.substr(dash + 1));
      if (last < first) fail("a first block before the last", name);
      for (auto block = first; block <= last; ++block) strengths_[*block] = value;
    }
  }
}

double BlockStrengths::strength(std::string_view block) const {
  const auto found = strengths_.find(block);
  return found == strengths_.end() ? 1 : found->second;
}

double BlockStrengths::of(std::string_view weight) const { return strength(block_of(weight)); }

double BlockStrengths::base() const { return strength(kBase); }

}  // namespace atelier
