// The zip archive of one torch.save: the pickle that describes it and the storages beside it.
#pragma once

#include <cstddef>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "formats/zip.h"

namespace atelier {

/// Entries of a torch archive, by the names torch gives them. Views the file.
class TorchArchive {
 public:
  /// Throws `malformed`, or `unsupported` for other archives, TorchScript and big-endian data.
  explicit TorchArchive(std::span<const std::byte> file);
  /// The bytes of data.pkl.
  std::span<const std::byte> pickle() const { return entry("data.pkl"); }
  /// The bytes of storage `key`; `subject` names the tensor that asks. Throws `malformed`.
  std::span<const std::byte> storage(std::string_view key, std::string_view subject);
  /// Where bytes of this file lie in it.
  uint64_t offset_of(std::span<const std::byte> bytes) const;
  /// Throws `malformed` if two of the storages asked for share bytes.
  void check_overlap() const;

 private:
  bool has(std::string_view name) const { return directory_.contains(root_ + std::string(name)); }
  std::span<const std::byte> entry(std::string_view name) const;

  std::span<const std::byte> file_;
  ZipDirectory directory_;
  std::string root_;  // the folder in the archive, with its slash
  std::map<std::string, std::span<const std::byte>, std::less<>> storages_;
};

}  // namespace atelier
