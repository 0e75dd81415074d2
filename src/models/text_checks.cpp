// Refusing chunks that an encoder cannot take.
#include "models/text_checks.h"

#include <fmt/format.h>

#include "base/error.h"

namespace atelier {
namespace {

[[noreturn]] void refuse(std::string_view subject, std::string expected, std::string found) {
  throw Error(ErrorCode::invalid_argument, {.subject = std::string(subject),
                                            .expected = std::move(expected),
                                            .found = std::move(found)});
}

}  // namespace

void check_chunk(const TokenChunk& chunk, size_t length, const ChunkLimits& limits) {
  if (chunk.ids.empty() || chunk.ids.size() != length)
    refuse("chunk", fmt::format("{} tokens, as the first has", length),
           std::to_string(chunk.ids.size()));
  if (length > static_cast<size_t>(limits.positions))
    refuse("prompt", fmt::format("at most {} tokens, as the encoder takes", limits.positions),
           std::to_string(length));
  for (const int64_t id : chunk.ids)
    if (id < 0 || id >= limits.vocabulary)
      refuse("token of the prompt",
             fmt::format("0 to {}, as the encoder knows", limits.vocabulary - 1),
             std::to_string(id));
  for (const TokenVector& vector : chunk.vectors) {
    if (vector.position < 0 || vector.position >= static_cast<int64_t>(length))
      refuse("place of an embedding", fmt::format("0 to {}", length - 1),
             std::to_string(vector.position));
    if (vector.values.dim() != 1 || vector.values.size(0) != limits.width)
      refuse("embedding", fmt::format("{} values", limits.width),
             std::to_string(vector.values.numel()));
  }
}

void check_any(std::span<const TokenChunk> chunks) {
  if (chunks.empty()) refuse("chunks", "at least one", "none");
}

}  // namespace atelier
