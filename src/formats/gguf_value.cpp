// Decoding of GGUF metadata values from bytes that the reader has already measured.
#include "formats/gguf_value.h"

#include <fmt/format.h>

#include <array>
#include <cstring>
#include <limits>

namespace atelier {
namespace {

using Bytes = std::span<const std::byte>;
constexpr size_t kArrayHeader = sizeof(uint32_t) + sizeof(uint64_t);

template <class T>
T load(Bytes bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

template <class T>
std::optional<int64_t> load_integer(Bytes bytes) {
  const T value = load<T>(bytes);
  if constexpr (sizeof(T) == sizeof(uint64_t) && std::is_unsigned_v<T>)
    if (value > static_cast<T>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return static_cast<int64_t>(value);
}

template <class T>
std::optional<double> load_number(Bytes bytes) {
  return static_cast<double>(load<T>(bytes));
}

struct TypeInfo {
  std::string_view name;
  size_t size;
  std::optional<int64_t> (*integer)(Bytes);
  std::optional<double> (*number)(Bytes);
};
constexpr std::array kTypes = {
    TypeInfo{"u8", 1, load_integer<uint8_t>, load_number<uint8_t>},
    TypeInfo{"i8", 1, load_integer<int8_t>, load_number<int8_t>},
    TypeInfo{"u16", 2, load_integer<uint16_t>, load_number<uint16_t>},
    TypeInfo{"i16", 2, load_integer<int16_t>, load_number<int16_t>},
    TypeInfo{"u32", 4, load_integer<uint32_t>, load_number<uint32_t>},
    TypeInfo{"i32", 4, load_integer<int32_t>, load_number<int32_t>},
    TypeInfo{"f32", 4, nullptr, load_number<float>},
    TypeInfo{"boolean", 1, nullptr, nullptr},
    TypeInfo{"text", 0, nullptr, nullptr},
    TypeInfo{"array", 0, nullptr, nullptr},
    TypeInfo{"u64", 8, load_integer<uint64_t>, load_number<uint64_t>},
    TypeInfo{"i64", 8, load_integer<int64_t>, load_number<int64_t>},
    TypeInfo{"f64", 8, nullptr, load_number<double>},
};

const TypeInfo& info_of(GgufType type) { return kTypes[static_cast<size_t>(type)]; }

std::string_view text_at(Bytes bytes) {
  const auto size = load<uint64_t>(bytes);
  return {reinterpret_cast<const char*>(bytes.data()) + sizeof(uint64_t), size};
}

}  // namespace

std::optional<std::string_view> gguf_type_name(uint32_t type) {
  if (type >= kTypes.size()) return std::nullopt;
  return kTypes[type].name;
}

size_t gguf_type_size(GgufType type) { return info_of(type).size; }

std::optional<int64_t> GgufValue::integer() const {
  const auto read = info_of(type_).integer;
  return read ? read(bytes_) : std::nullopt;
}

std::optional<double> GgufValue::number() const {
  const auto read = info_of(type_).number;
  return read ? read(bytes_) : std::nullopt;
}

std::optional<bool> GgufValue::boolean() const {
  if (type_ != GgufType::boolean) return std::nullopt;
  return bytes_[0] != std::byte{0};
}

std::optional<std::string_view> GgufValue::text() const {
  if (type_ != GgufType::text) return std::nullopt;
  return text_at(bytes_);
}

std::optional<GgufType> GgufValue::element_type() const {
  if (type_ != GgufType::array) return std::nullopt;
  return static_cast<GgufType>(load<uint32_t>(bytes_));
}

uint64_t GgufValue::count() const {
  return type_ == GgufType::array ? load<uint64_t>(bytes_.subspan(sizeof(uint32_t))) : 0;
}

std::vector<int64_t> GgufValue::integers() const {
  std::vector<int64_t> values;
  const auto element = element_type();
  if (!element || !info_of(*element).integer) return values;
  const TypeInfo& info = info_of(*element);
  values.reserve(count());
  for (uint64_t i = 0; i < count(); ++i) {
    const auto value = info.integer(bytes_.subspan(kArrayHeader + i * info.size));
    if (!value) return {};
    values.push_back(*value);
  }
  return values;
}

std::vector<double> GgufValue::numbers() const {
  std::vector<double> values;
  const auto element = element_type();
  if (!element || !info_of(*element).number) return values;
  const TypeInfo& info = info_of(*element);
  values.reserve(count());
  for (uint64_t i = 0; i < count(); ++i)
    values.push_back(*info.number(bytes_.subspan(kArrayHeader + i * info.size)));
  return values;
}

std::vector<std::string_view> GgufValue::texts() const {
  std::vector<std::string_view> values;
  if (element_type() != GgufType::text) return values;
  values.reserve(count());
  Bytes rest = bytes_.subspan(kArrayHeader);
  for (uint64_t i = 0; i < count(); ++i) {
    values.push_back(text_at(rest));
    rest = rest.subspan(sizeof(uint64_t) + values.back().size());
  }
  return values;
}

std::string GgufValue::describe() const {
  if (const auto value = text()) return std::string(*value);
  if (const auto value = boolean()) return *value ? "true" : "false";
  if (const auto value = integer()) return fmt::format("{}", *value);
  if (type_ == GgufType::u64) return fmt::format("{}", load<uint64_t>(bytes_));
  if (type_ == GgufType::f32) return fmt::format("{}", load<float>(bytes_));
  if (const auto value = number()) return fmt::format("{}", *value);
  return fmt::format("[{} x {}]", count(), info_of(*element_type()).name);
}

}  // namespace atelier
