// Overflow-checked sizes, overlap checks over sorted places.
#include "formats/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/utf8.h"

namespace atelier {

std::optional<uint64_t> checked_product(uint64_t a, uint64_t b) {
  uint64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) return std::nullopt;
  return result;
}

std::optional<uint64_t> checked_sum(uint64_t a, uint64_t b) {
  uint64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) return std::nullopt;
  return result;
}

uint64_t encoded_size(const Shape& shape, Encoding encoding, std::string_view subject) {
  const auto fail = [&](std::string expected, std::string found) {
    throw Error(ErrorCode::malformed, {.subject = std::string(subject),
                                       .expected = std::move(expected),
                                       .found = std::move(found),
                                       .hint = std::string(kDamaged)});
  };
  if (shape.size() > kMaxRank)
    fail(fmt::format("at most {} dimensions", kMaxRank), fmt::format("{}", shape.size()));
  // Extents of zero count as one here, so that strides and partial products fit as well.
  std::optional<uint64_t> product = 1;
  for (const int64_t extent : shape) {
    if (extent < 0) fail("extents of zero or more", to_string(shape));
    product = product
                  ? checked_product(*product, static_cast<uint64_t>(std::max<int64_t>(extent, 1)))
                  : product;
  }
  const EncodingInfo& info = encoding_info(encoding);
  const auto widest =
      product ? checked_product(*product, static_cast<uint64_t>(info.block_bytes)) : std::nullopt;
  if (!widest || *widest > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    fail("a shape whose size fits in 63 bits", to_string(shape));
  const bool empty = std::find(shape.begin(), shape.end(), 0) != shape.end();
  const uint64_t elements = empty ? 0 : *product;
  const auto block = static_cast<uint64_t>(info.block_elements);
  if (elements % block != 0)
    fail(fmt::format("whole {} blocks of {} elements", info.name, block), to_string(shape));
  return elements / block * static_cast<uint64_t>(info.block_bytes);
}

void check_places(const TensorTable& tensors, uint64_t begin, uint64_t end, Gaps gaps) {
  std::vector<const TensorTable::value_type*> order;
  order.reserve(tensors.size());
  for (const auto& entry : tensors) order.push_back(&entry);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.offset, a->second.size) <
           std::pair(b->second.offset, b->second.size);
  });
  uint64_t position = begin;
  const std::string* last = nullptr;
  for (const auto* entry : order) {
    const std::string& name = entry->first;
    const TensorInfo& info = entry->second;
    const auto fail = [&](std::string expected, std::string_view hint) {
      throw Error(ErrorCode::malformed,
                  {.subject = tensor_subject(name),
                   .expected = std::move(expected),
                   .found = fmt::format("bytes {} to {}", info.offset, info.offset + info.size),
                   .hint = std::string(hint)});
    };
    if (info.offset > end || info.size > end - info.offset)
      fail(fmt::format("data within bytes {} to {} of the file", begin, end), kCutShort);
    if (info.offset < begin)
      fail(fmt::format("data within bytes {} to {} of the file", begin, end), kDamaged);
    if (info.offset < position && info.size > 0)
      fail(fmt::format("data after that of {}, which ends at byte {}",
                       last ? tensor_subject(*last) : "the header", position),
           kDamaged);
    if (gaps == Gaps::forbidden && info.offset > position)
      fail(fmt::format("data from byte {} on, leaving none out", position), kDamaged);
    if (info.size > 0) last = &name;
    position = std::max(position, info.offset + info.size);
  }
  if (gaps == Gaps::forbidden && position != end)
    throw Error(ErrorCode::malformed,
                {.subject = "end of the file",
                 .expected = fmt::format("the last tensor to end at byte {}", end),
                 .found = fmt::format("it ends at byte {}", position),
                 .hint = "Bytes were appended to the file, or its header was changed"});
}

bool is_utf8(std::string_view text) { return valid_utf8(text) == text; }

std::string in_quotes(std::string_view name) {
  constexpr size_t kLongest = 160;
  const std::string text = valid_utf8(name.substr(0, kLongest));
  return "'" + text + (name.size() > kLongest ? "...'" : "'");
}

std::string tensor_subject(std::string_view name) { return "tensor " + in_quotes(name); }

}  // namespace atelier
