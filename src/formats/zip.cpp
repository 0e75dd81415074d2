// Finds the end record, walks the central directory, resolves local headers. Longer than most: one
// format, whose three parts check each other.
#include "formats/zip.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

#include "base/error.h"
#include "formats/byte_reader.h"
#include "formats/layout.h"

namespace atelier {
namespace {

using FileBytes = std::span<const std::byte>;
constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;
constexpr size_t kEndSize = 22, kLocatorSize = 20, kCentralSize = 46;
constexpr size_t kLongestComment = 65535;
constexpr uint16_t kEncrypted = 1, kZip64Extra = 1;
constexpr uint32_t kIn64 = 0xFFFFFFFF;  // the real value stands in the zip64 extra field

struct Method {
  uint16_t number;
  std::string_view name;
};
constexpr std::array kMethods = {
    Method{8, "deflate"}, Method{9, "deflate64"}, Method{12, "bzip2"},
    Method{14, "LZMA"},   Method{93, "zstd"},     Method{95, "xz"},
};

[[noreturn]] void fail(std::string subject, std::string expected, std::string found,
                       std::string_view hint) {
  throw Error(ErrorCode::malformed, {.subject = std::move(subject),
                                     .expected = std::move(expected),
                                     .found = std::move(found),
                                     .hint = std::string(hint)});
}

std::string entry_subject(std::string_view name) { return "zip entry " + in_quotes(name); }

/// Where the central directory lies and how many entries it has.
struct Directory {
  uint64_t offset = 0, size = 0, entries = 0;
};

size_t find_end(FileBytes file) {
  if (file.size() >= kEndSize) {
    const size_t last = file.size() - kEndSize;
    const size_t first = last > kLongestComment ? last - kLongestComment : 0;
    for (size_t at = last + 1; at-- > first;) {
      uint32_t signature = 0;
      uint16_t comment = 0;
      std::memcpy(&signature, &file[at], sizeof signature);
      std::memcpy(&comment, &file[at + kEndSize - sizeof comment], sizeof comment);
      if (signature == kEnd && at + kEndSize + comment == file.size()) return at;
    }
  }
  fail("zip archive", "a directory at its end", "none", kCutShort);
}

Directory read_end64(FileBytes file, uint64_t at) {
  if (at > file.size())
    fail("zip64 end record", "an offset within the file", fmt::format("{}", at), kDamaged);
  ByteReader reader(file.subspan(at), "zip64 end record");
  if (reader.number<uint32_t>("its signature") != kEnd64)
    fail("zip64 end record", "its signature", "other bytes", kDamaged);
  reader.take(8 + 2 + 2 + 4 + 4 + 8, "its fields");
  Directory directory;
  directory.entries = reader.number<uint64_t>("the number of entries");
  directory.size = reader.number<uint64_t>("the size of the directory");
  directory.offset = reader.number<uint64_t>("the offset of the directory");
  return directory;
}

Directory read_end(FileBytes file) {
  const size_t at = find_end(file);
  ByteReader reader(file.subspan(at), "zip end record");
  reader.take(4, "its signature");
  const auto disk = reader.number<uint16_t>("the volume");
  reader.take(2 + 2, "its fields");
  Directory directory;
  directory.entries = reader.number<uint16_t>("the number of entries");
  directory.size = reader.number<uint32_t>("the size of the directory");
  directory.offset = reader.number<uint32_t>("the offset of the directory");
  uint32_t signature = 0;
  if (at >= kLocatorSize) std::memcpy(&signature, &file[at - kLocatorSize], sizeof signature);
  if (signature == kLocator64) {
    ByteReader locator(file.subspan(at - kLocatorSize), "zip64 locator");
    locator.take(4 + 4, "its fields");
    directory = read_end64(file, locator.number<uint64_t>("the offset of the end record"));
  } else if (disk != 0) {
    throw Error(ErrorCode::unsupported, {.subject = "zip archive",
                                         .expected = "a single volume",
                                         .found = "one of several",
                                         .hint = "Join the volumes first"});
  }
  if (directory.offset > at || directory.size > at - directory.offset)
    fail("zip directory", fmt::format("it within the first {} bytes", at),
         fmt::format("{} bytes at byte {}", directory.size, directory.offset), kDamaged);
  if (directory.entries > directory.size / kCentralSize)
    fail("zip directory", fmt::format("entries within its {} bytes", directory.size),
         fmt::format("{} entries", directory.entries), kDamaged);
  return directory;
}

/// Takes from the zip64 extra field whatever the entry's own fields could not hold.
void read_zip64(FileBytes extra, std::string_view name, ZipEntry& entry) {
  ByteReader fields(extra, "zip entry");
  while (fields.remaining() >= 4) {
    const auto id = fields.number<uint16_t>("an extra field");
    const auto size = fields.number<uint16_t>("an extra field");
    if (size > fields.remaining())
      fail(entry_subject(name), "extra fields of their stated size", "a longer one", kDamaged);
    const auto bytes = fields.take(size, "an extra field");
    if (id != kZip64Extra) continue;
    ByteReader values(bytes, "zip entry");
    for (uint64_t* field : {&entry.size, &entry.stored, &entry.header})
      if (*field == kIn64) *field = values.number<uint64_t>("a zip64 field");
    return;
  }
}

}  // namespace

bool is_zip(FileBytes file) {
  uint32_t signature = 0;
  if (file.size() < sizeof signature) return false;
  std::memcpy(&signature, file.data(), sizeof signature);
  return signature == kLocalHeader;
}

ZipDirectory read_zip_directory(FileBytes file) {
  const Directory where = read_end(file);
  ByteReader reader(file.subspan(where.offset, where.size), "zip directory");
  ZipDirectory entries;
  for (uint64_t i = 0; i < where.entries; ++i) {
    if (reader.number<uint32_t>("a signature") != kCentralHeader)
      fail("zip directory", fmt::format("entry {} of {}", i + 1, where.entries), "other bytes",
           kDamaged);
    ZipEntry entry;
    reader.take(2 + 2, "an entry");
    entry.flags = reader.number<uint16_t>("an entry");
    entry.method = reader.number<uint16_t>("an entry");
    reader.take(2 + 2 + 4, "an entry");
    entry.stored = reader.number<uint32_t>("an entry");
    entry.size = reader.number<uint32_t>("an entry");
    const auto name_size = reader.number<uint16_t>("an entry");
    const auto extra_size = reader.number<uint16_t>("an entry");
    const auto comment_size = reader.number<uint16_t>("an entry");
    reader.take(2 + 2 + 4, "an entry");
    entry.header = reader.number<uint32_t>("an entry");
    const std::string_view name = reader.text(name_size, "a name");
    read_zip64(reader.take(extra_size, "an extra field"), name, entry);
    reader.take(comment_size, "a comment");
    if (!entries.emplace(name, entry).second)
      fail(entry_subject(name), "every name once", "it twice", kDamaged);
  }
  return entries;
}

std::span<const std::byte> zip_entry_bytes(FileBytes file, std::string_view name,
                                           const ZipEntry& entry) {
  const std::string subject = entry_subject(name);
  const auto refuse = [&](std::string expected, std::string found) {
    throw Error(ErrorCode::unsupported,
                {.subject = subject,
                 .expected = std::move(expected),
                 .found = std::move(found),
                 .hint = "torch.save never writes it so; the archive was packed again"});
  };
  if (entry.flags & kEncrypted) refuse("readable data", "encrypted data");
  if (entry.method != 0) {
    const auto row = std::find_if(kMethods.begin(), kMethods.end(),
                                  [&](const Method& m) { return m.number == entry.method; });
    refuse("stored data", row == kMethods.end() ? fmt::format("compression {}", entry.method)
                                                : fmt::format("{} compression", row->name));
  }
  if (entry.size != entry.stored)
    fail(subject, fmt::format("{} bytes, its size", entry.size), fmt::format("{}", entry.stored),
         kDamaged);
  if (entry.header > file.size())
    fail(subject, "a place within the file", fmt::format("byte {}", entry.header), kCutShort);
  ByteReader reader(file.subspan(entry.header), subject);
  if (reader.number<uint32_t>("its header") != kLocalHeader)
    fail(subject, fmt::format("its header at byte {}", entry.header), "other bytes", kDamaged);
  reader.take(2 + 2, "its header");
  if (const auto method = reader.number<uint16_t>("its header"); method != entry.method)
    fail(subject, "stored data, as the directory says",
         fmt::format("compression {} in its header", method), kDamaged);
  reader.take(2 + 2 + 4 + 4 + 4, "its header");
  const auto name_size = reader.number<uint16_t>("its header");
  const auto extra_size = reader.number<uint16_t>("its header");
  if (const std::string_view own = reader.text(name_size, "its name"); own != name)
    fail(subject, "its own name in its header", in_quotes(own), kDamaged);
  reader.take(extra_size, "its extra field");
  return reader.take(entry.size, "its data");
}

}  // namespace atelier
