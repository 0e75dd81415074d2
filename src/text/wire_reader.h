// A cursor over the fields of a protobuf message whose bytes are not trusted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace atelier {

/// One field as it stands in the message: a number, or bytes that are text or a message.
struct WireField {
  uint64_t number = 0;
  int type = 0;  // 0 varint, 1 eight bytes, 2 bytes with their length, 5 four bytes
  uint64_t value = 0;  // of types 0, 1, 5
  std::span<const std::byte> bytes;  // of type 2
};

/// Reads the fields of one message in order; nested messages are read by another reader over their
/// bytes. Throws `malformed`, naming `subject`.
/// Source: protobuf.dev, "Encoding".
class WireReader {
 public:
  WireReader(std::span<const std::byte> message, std::string_view subject)
      : rest_(message), subject_(subject) {}
  /// The next field, nothing at the end.
  std::optional<WireField> next();
  /// Refuses a known field of another wire type.
  void expect(const WireField& field, int type, std::string_view name) const;

 private:
  uint64_t varint();
  std::span<const std::byte> take(uint64_t count);
  uint64_t fixed(size_t size);

  std::span<const std::byte> rest_;
  std::string_view subject_;
};

}  // namespace atelier
