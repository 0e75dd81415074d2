// Files mapped for reading, and files that appear under their name only when whole.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string_view>

namespace atelier {

/// A file mapped read-only; the bytes stay valid while any copy of the handle lives.
/// Safe to share between threads.
class MappedFile {
 public:
  MappedFile() = default;
  /// Maps the whole of a regular file. Throws `not_found` or `unreadable`.
  static MappedFile open(const std::filesystem::path& path);
  std::span<const std::byte> bytes() const { return bytes_; }
  const std::filesystem::path& path() const { return path_; }
  /// Starts reading a range of the file in the background; a hint, never fails.
  void will_need(size_t offset, size_t size) const;
  /// Lets the range's pages leave this process's memory; a hint. Bytes stay valid: they are read
  /// again when touched.
  void wont_need(size_t offset, size_t size) const;

 private:
  void advise(size_t offset, size_t size, int advice) const;

  std::shared_ptr<const void> mapping_;
  std::span<const std::byte> bytes_;
  std::filesystem::path path_;
};

/// Where writing to `path` leads: through symbolic links, of which the last may lead to nothing
/// yet. Throws `write_failed` for links in a circle and names no file can have.
std::filesystem::path link_target(std::filesystem::path path);

/// A file being written beside its final place, under no name at all where the file system can
/// do that, so that even a killed program leaves nothing behind; else under a temporary name, which
/// the destructor removes. `commit()` gives it its name. Throws `write_failed`. Not shared between
/// threads.
class AtomicFile {
 public:
  enum class Until { nameless, temporary_name };
  explicit AtomicFile(std::filesystem::path path, Until until = Until::nameless);
  /// Throws `write_failed` if `path` names something that is no regular file, or nothing that a
  /// file system could tell.
  static void check_replaceable(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Flushes to disk and gives the file its name, replacing another file of that name, whose
  /// permissions it takes, but no folder, pipe or device.
  void commit();
  /// The same, but returns false and changes nothing if the name is taken; may then be called
  /// again after `rename`.
  bool commit_new();
  /// Chooses another final name in the same folder.
  void rename(std::filesystem::path path) { path_ = std::move(path); }

 private:
  [[noreturn]] void fail(int error);
  bool open_nameless();
  void open_temporary();
  /// Gives the file another name; false if that name is taken.
  bool link(const std::filesystem::path& name);
  void close();
  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty: the file has no name yet
  size_t written_ = 0, started_ = 0;  // bytes; those on their way to the disk
  int descriptor_ = -1;
};

}  // namespace atelier
