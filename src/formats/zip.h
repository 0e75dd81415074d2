// The directory of a zip archive (zip64 too), for archives whose entries are stored uncompressed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string_view>

namespace atelier {

/// One entry as the central directory describes it.
struct ZipEntry {
  uint64_t header = 0;  // offset of its local header
  uint64_t size = 0;  // bytes, uncompressed
  uint64_t stored = 0;  // bytes in the archive
  uint16_t method = 0;
  uint16_t flags = 0;
};

/// Entries by name; names view the archive.
using ZipDirectory = std::map<std::string_view, ZipEntry>;

/// Whether `file` begins with a zip entry.
bool is_zip(std::span<const std::byte> file);

/// Reads the central directory. Throws `malformed` or `unsupported` (several volumes).
/// Format: PKWARE APPNOTE.TXT 6.3.9, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16 and 4.5.3.
ZipDirectory read_zip_directory(std::span<const std::byte> file);

/// The bytes of an entry, in place; the local header must agree with the directory. Throws
/// `malformed`, or `unsupported` for compressed and encrypted entries, naming the entry.
std::span<const std::byte> zip_entry_bytes(std::span<const std::byte> file, std::string_view name,
                                           const ZipEntry& entry);

}  // namespace atelier
