// Lengths are checked against what is left before anything is taken.
#include "text/wire_reader.h"

#include <fmt/format.h>

#include "text/unigram_error.h"

namespace atelier {

std::optional<WireField> WireReader::next() {
  if (rest_.empty()) return {};
  const uint64_t key = varint();
  WireField field{.number = key >> 3, .type = static_cast<int>(key & 7), .bytes = {}};
  if (field.number == 0) refuse_vocabulary(subject_, "fields numbered from 1", "field 0");
  switch (field.type) {
    case 0:
      field.value = varint();
      break;
    case 1:
      field.value = fixed(8);
      break;
    case 2:
      field.bytes = take(varint());
      break;
    case 5:
      field.value = fixed(4);
      break;
    default:
      refuse_vocabulary(subject_, "wire types 0, 1, 2 and 5", fmt::format("type {}", field.type));
  }
  return field;
}

void WireReader::expect(const WireField& field, int type, std::string_view name) const {
  if (field.type != type)
    refuse_vocabulary(subject_, fmt::format("{} of wire type {}", name, type),
                      fmt::format("type {}", field.type));
}

uint64_t WireReader::varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<uint64_t>(take(1)[0]);
    const uint64_t bits = byte & 0x7F;
    if (shift == 63 && bits > 1) break;
    value |= bits << shift;
    if (byte < 0x80) return value;
  }
  refuse_vocabulary(subject_, "numbers of at most 64 bits", "a longer one");
}

std::span<const std::byte> WireReader::take(uint64_t count) {
  if (count > rest_.size())
    refuse_vocabulary(subject_, fmt::format("{} more bytes", count),
                      fmt::format("{} before the end", rest_.size()));
  const auto part = rest_.first(count);
  rest_ = rest_.subspan(count);
  return part;
}

uint64_t WireReader::fixed(size_t size) {
  const auto part = take(size);
  uint64_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<uint64_t>(part[i]);
  return value;
}

}  // namespace atelier
