// Checkpoint files of every kind behind one interface. Read this header first, after
// tensor_source.h.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "formats/gguf_value.h"
#include "formats/tensor_source.h"

namespace atelier {

struct FileContents;

/// One kind of checkpoint: how it is told from others and read. Both take a file's bytes.
struct ReaderInfo {
  std::string_view name;
  bool (*recognise)(std::span<const std::byte> file);
  FileContents (*read)(std::span<const std::byte> file);
};

/// All kinds, in the order in which they are tried.
std::span<const ReaderInfo> readers();

/// A model file, or the shards of a split one, mapped into memory: `bytes` copies nothing, except
/// for tensors that a torch file holds in another order. Const member functions are safe from any
/// thread. The files must not be shortened while it lives.
class Checkpoint final : public TensorSource {
 public:
  ~Checkpoint() override;
  const TensorTable& tensors() const override { return tensors_; }
  std::span<const std::byte> bytes(std::string_view name) const override;
  void will_need(std::string_view name) const override;
  void wont_need(std::string_view name) const override;
  std::string label() const override { return path_.string(); }
  const Metadata& metadata() const override { return metadata_; }
  std::string format() const override { return format_; }

  /// Typed GGUF metadata, arrays included; empty for other kinds. Views the file.
  const GgufMetadata& gguf() const { return gguf_; }
  /// The mapped files, by `TensorInfo::shard`.
  std::span<const MappedFile> files() const { return files_; }

 private:
  friend std::shared_ptr<const Checkpoint> open_checkpoint(const std::filesystem::path& path);
  explicit Checkpoint(const std::filesystem::path& path);
  void add_file(MappedFile file, std::string_view format, FileContents contents);
  void open_shards(FileContents index);
  const TensorTable::value_type& entry(std::string_view name) const;
  std::span<const std::byte> stored(const TensorInfo& info) const;

  std::filesystem::path path_;
  std::string format_;
  std::vector<MappedFile> files_;
  TensorTable tensors_;
  Metadata metadata_;
  GgufMetadata gguf_;
  std::map<std::string, Shape, std::less<>> strides_;
  mutable std::mutex mutex_;  // guards gathered_
  mutable std::map<std::string, std::vector<std::byte>, std::less<>> gathered_;
};

/// Opens a safetensors, GGUF or torch zip file, or the index of a split model with its shards. The
/// kind is told by content, not by name. Everything is checked before it returns. Throws
/// `not_found`, `unreadable`, `malformed`, `unsupported` or `mismatch` (shards that do not hold
/// what their index says), always naming the file.
std::shared_ptr<const Checkpoint> open_checkpoint(const std::filesystem::path& path);

}  // namespace atelier
