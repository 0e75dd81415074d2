// A cursor over untrusted little-endian bytes: every read is checked against what is left.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace atelier {

static_assert(std::endian::native == std::endian::little, "file formats are read in host order");

/// Reads forward through `bytes`; `subject` names them in errors. Throws `malformed` at the end.
class ByteReader {
 public:
  ByteReader(std::span<const std::byte> bytes, std::string_view subject)
      : bytes_(bytes), subject_(subject) {}

  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  /// The next `count` bytes; `field` says in an error what they would have been.
  std::span<const std::byte> take(uint64_t count, std::string_view field) {
    if (count > remaining()) fail(count, field);
    const auto part = bytes_.subspan(position_, count);
    position_ += count;
    return part;
  }
  std::string_view text(uint64_t count, std::string_view field) {
    const auto part = take(count, field);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }
  template <class T>
  T number(std::string_view field) {
    static_assert(std::is_arithmetic_v<T>);
    T value;
    std::memcpy(&value, take(sizeof(T), field).data(), sizeof(T));
    return value;
  }

 private:
  [[noreturn]] void fail(uint64_t count, std::string_view field) const;
  std::span<const std::byte> bytes_;
  std::string_view subject_;
  uint64_t position_ = 0;
};

}  // namespace atelier
