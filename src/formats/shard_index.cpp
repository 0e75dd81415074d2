// Reads the index of a split model; the shards themselves are opened by Checkpoint.
#include "formats/shard_index.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "formats/contents.h"
#include "formats/layout.h"

namespace atelier {
namespace {

constexpr size_t kMaxIndex = 32 << 20;  // a tensor takes about 100 bytes
constexpr int kMaxDepth = 8;

[[noreturn]] void fail(std::string subject, std::string expected, std::string found) {
  throw Error(ErrorCode::malformed, {.subject = std::move(subject),
                                     .expected = std::move(expected),
                                     .found = std::move(found),
                                     .hint = std::string(kDamaged)});
}

/// A bare file name: the index must not reach outside its folder.
bool is_plain_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('\0') == name.npos &&
         name.find_first_of("/\\") == name.npos;
}

Json parse_index(std::string_view text) {
  try {
    return parse_json(text, "index", kMaxDepth);
  } catch (const Error& error) {
    fail(error.facts().subject, error.facts().expected, error.facts().found);
  }
}

}  // namespace

bool is_shard_index(std::span<const std::byte> file) {
  // A safetensors file, too, may begin with this byte as part of its length; zeros follow there.
  constexpr size_t kLengthBytes = 8;
  const auto start = file.first(std::min(file.size(), kLengthBytes));
  if (std::find(start.begin(), start.end(), std::byte{0}) != start.end()) return false;
  const auto first = std::find_if(file.begin(), file.end(), [](std::byte b) {
    return b != std::byte{' '} && b != std::byte{'\n'} && b != std::byte{'\r'} &&
           b != std::byte{'\t'};
  });
  return first != file.end() && *first == std::byte{'{'};
}

FileContents read_shard_index(std::span<const std::byte> file) {
  if (file.size() > kMaxIndex)
    fail("index", fmt::format("at most {} bytes", kMaxIndex), fmt::format("{}", file.size()));
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  const Json index = parse_index(text);
  if (index.is_object() && index.contains("model") && index.contains("pre_tokenizer"))
    throw Error(ErrorCode::unsupported, {.expected = "a checkpoint",
                                         .found = "a tokenizer.json",
                                         .hint = "T5's is given with --t5-tokenizer"});
  const auto map = index.find("weight_map");
  if (map == index.end() || !map->is_object() || map->empty())
    throw Error(ErrorCode::malformed,
                {.subject = "index",
                 .expected = "a JSON object with weight_map, the index of a split model",
                 .found = "none",
                 .hint = "Give the file with the weights, not its configuration"});
  FileContents contents;
  for (const auto& [tensor, shard] : map->items()) {
    if (!shard.is_string() || !is_plain_name(shard.get_ref<const std::string&>()))
      fail(tensor_subject(tensor), "the name of a file beside the index", in_quotes(shard.dump()));
    contents.shards.emplace(tensor, shard.get<std::string>());
  }
  if (const auto metadata = index.find("metadata");
      metadata != index.end() && metadata->is_object())
    for (const auto& [key, value] : metadata->items())
      contents.metadata.emplace(key, value.is_string() ? value.get<std::string>() : value.dump());
  return contents;
}

}  // namespace atelier
