// Builders of small checkpoint files for tests, byte by byte, so that any field can lie.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace atelier::test {

/// Bytes being written, little-endian.
class ByteBuilder {
 public:
  template <class T>
  ByteBuilder& number(T value) {
    const char* first = reinterpret_cast<const char*>(&value);
    bytes_.append(first, sizeof value);
    return *this;
  }
  ByteBuilder& u8(uint8_t value) { return number(value); }
  ByteBuilder& u16(uint16_t value) { return number(value); }
  ByteBuilder& u32(uint32_t value) { return number(value); }
  ByteBuilder& u64(uint64_t value) { return number(value); }
  ByteBuilder& raw(std::string_view text) { return bytes_.append(text), *this; }
  /// A GGUF text: its length, then its bytes.
  ByteBuilder& text(std::string_view value) { return u64(value.size()).raw(value); }
  ByteBuilder& align(size_t to) {
    bytes_.append((to - bytes_.size() % to) % to, '\0');
    return *this;
  }
  size_t size() const { return bytes_.size(); }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

inline std::span<const std::byte> view(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// A safetensors file with this header and this data.
inline std::string safetensors_file(std::string_view header, std::string_view data = {}) {
  return ByteBuilder().u64(header.size()).raw(header).raw(data).bytes();
}

/// One entry of a zip archive, and the lies it may tell.
struct ZipPart {
  std::string name, data;
  uint16_t method = 0;
  uint16_t flags = 0;
  bool zip64 = false;
  std::optional<std::string> local_name = {};
  std::optional<uint64_t> size = {};  // in the directory
  std::optional<uint64_t> header = {};  // offset of the local header, in the directory
};

/// A zip archive, with a zip64 end record where `zip64`.
inline std::string zip_file(const std::vector<ZipPart>& parts, bool zip64 = false) {
  ByteBuilder file, directory;
  for (const ZipPart& part : parts) {
    const uint64_t header = part.header.value_or(file.size());
    const uint64_t size = part.size.value_or(part.data.size());
    const std::string local = part.local_name.value_or(part.name);
    file.u32(0x04034b50).u16(20).u16(part.flags).u16(part.method).u32(0).u32(0);
    file.u32(static_cast<uint32_t>(part.data.size())).u32(static_cast<uint32_t>(part.data.size()));
    file.u16(static_cast<uint16_t>(local.size())).u16(0).raw(local).raw(part.data);
    directory.u32(0x02014b50).u16(45).u16(20).u16(part.flags).u16(part.method).u32(0).u32(0);
    const auto low = [&](uint64_t value) {
      return part.zip64 ? 0xFFFFFFFFu : static_cast<uint32_t>(value);
    };
    directory.u32(low(size)).u32(low(size)).u16(static_cast<uint16_t>(part.name.size()));
    directory.u16(part.zip64 ? 28 : 0).u16(0).u16(0).u16(0).u32(0).u32(low(header));
    directory.raw(part.name);
    if (part.zip64) directory.u16(1).u16(24).u64(size).u64(size).u64(header);
  }
  const uint64_t offset = file.size(), end = offset + directory.size();
  file.raw(directory.bytes());
  if (zip64) {
    file.u32(0x06064b50).u64(44).u16(45).u16(45).u32(0).u32(0).u64(parts.size());
    file.u64(parts.size()).u64(directory.size()).u64(offset);
    file.u32(0x07064b50).u32(0).u64(end).u32(1);
  }
  const auto count = static_cast<uint16_t>(zip64 ? 0xFFFF : parts.size());
  file.u32(0x06054b50).u16(0).u16(0).u16(count).u16(count);
  file.u32(zip64 ? 0xFFFFFFFF : static_cast<uint32_t>(directory.size()));
  file.u32(zip64 ? 0xFFFFFFFF : static_cast<uint32_t>(offset)).u16(0);
  return file.bytes();
}

/// The error that `action` throws; fails the test's expectation by an `internal` one if none.
inline Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::internal, {.subject = "", .expected = "nothing was thrown"});
}

/// A folder of its own for one test, removed afterwards.
struct TestFolder {
  std::filesystem::path path;
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "atelier_formats_XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~TestFolder() { std::filesystem::remove_all(path); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  /// Writes a file, making folders on the way, and returns its path.
  std::filesystem::path write(const std::string& name, std::string_view bytes) const {
    std::filesystem::create_directories((path / name).parent_path());
    std::ofstream(path / name, std::ios::binary) << bytes;
    return path / name;
  }
};

}  // namespace atelier::test
