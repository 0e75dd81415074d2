// Typed metadata values of a GGUF file, read in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace atelier {

/// Value types of GGUF metadata, by their numbers in the file.
enum class GgufType : uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  text,
  array,
  u64,
  i64,
  f64,
};

/// One value: a view of bytes the reader has checked, valid while its checkpoint lives. A question
/// that does not fit the type is answered with nothing; const member functions are safe from any
/// thread.
class GgufValue {
 public:
  GgufValue(GgufType type, std::span<const std::byte> bytes) : type_(type), bytes_(bytes) {}

  GgufType type() const { return type_; }
  /// As the file has it; of an array with its element type and count.
  std::span<const std::byte> bytes() const { return bytes_; }
  std::optional<int64_t> integer() const;
  /// Any integer or floating-point value.
  std::optional<double> number() const;
  std::optional<bool> boolean() const;
  std::optional<std::string_view> text() const;

  /// Of an array: the type and number of its elements.
  std::optional<GgufType> element_type() const;
  uint64_t count() const;
  /// The elements of an array of integers, numbers or texts; empty for any other value. A
  /// vocabulary of 256 000 texts is walked in a few milliseconds and not copied.
  std::vector<int64_t> integers() const;
  std::vector<double> numbers() const;
  std::vector<std::string_view> texts() const;

  /// As people read it: "12", "0.5", "true", a text, "[256000 x text]".
  std::string describe() const;

 private:
  GgufType type_;
  std::span<const std::byte> bytes_;  // of an array: element type, count, elements
};

/// By key.
using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

/// "u8", "text", ..., or nothing for a number that is no type.
std::optional<std::string_view> gguf_type_name(uint32_t type);
/// Bytes of one value of a type of fixed size; 0 for texts and arrays.
size_t gguf_type_size(GgufType type);

}  // namespace atelier
