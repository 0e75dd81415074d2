// POSIX mapping, and writing of files that get their name at the end.
#include "base/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "base/error.h"

namespace atelier {
namespace {

[[noreturn]] void throw_open(const std::filesystem::path& path, int error) {
  const bool missing = error == ENOENT || error == ENOTDIR;
  throw Error(missing ? ErrorCode::not_found : ErrorCode::unreadable,
              {.subject = path.string(),
               .expected = missing ? "no such file"
                                   : fmt::format("cannot be read ({})", std::strerror(error))});
}

/// The link in /proc that leads to an open file.
std::string place_of(int descriptor) { return fmt::format("/proc/self/fd/{}", descriptor); }

/// The name with `ending` behind it, shortened so that a folder can hold it.
std::filesystem::path beside(const std::filesystem::path& path, const std::string& ending) {
  constexpr size_t kLongest = NAME_MAX;
  std::string name = path.filename().string();
  name.resize(std::min(name.size(), kLongest - ending.size()));
  return path.parent_path() / (name + ending);
}

}  // namespace

MappedFile MappedFile::open(const std::filesystem::path& path) {
  // A pipe would otherwise be waited for.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) throw_open(path, errno);
  struct stat status{};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor);
    throw Error(ErrorCode::unreadable,
                {.subject = path.string(),
                 .expected = "a file",
                 .found = S_ISDIR(status.st_mode) ? "a folder" : "something else"});
  }
  MappedFile file;
  file.path_ = path;
  const auto size = static_cast<size_t>(status.st_size);
  if (size > 0) {
    void* data = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
    const int error = errno;
    if (data == MAP_FAILED) {
      ::close(descriptor);
      throw_open(path, error);
    }
    file.mapping_ = std::shared_ptr<const void>(
        data, [size](const void* p) { ::munmap(const_cast<void*>(p), size); });
    file.bytes_ = {static_cast<const std::byte*>(data), size};
  }
  ::close(descriptor);
  return file;
}

void MappedFile::will_need(size_t offset, size_t size) const {
  advise(offset, size, MADV_WILLNEED);
}

void MappedFile::wont_need(size_t offset, size_t size) const {
  advise(offset, size, MADV_DONTNEED);
}

void MappedFile::advise(size_t offset, size_t size, int advice) const {
  if (offset >= bytes_.size()) return;
  const size_t page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  const size_t begin = offset / page * page;
  const size_t end = offset + std::min(size, bytes_.size() - offset);
  ::madvise(const_cast<std::byte*>(bytes_.data()) + begin, end - begin, advice);
}

std::filesystem::path link_target(std::filesystem::path path) {
  namespace fs = std::filesystem;
  constexpr int kMostLinks = 40;  // as Linux follows
  const std::string given = path.string();
  const auto fail = [&](const std::string& reason) {
    throw Error(ErrorCode::write_failed,
                {.subject = given, .expected = fmt::format("cannot be written ({})", reason)});
  };
  for (int links = 0;; ++links) {
    std::error_code error;
    const fs::file_status status = fs::symlink_status(path, error);
    if (error && status.type() != fs::file_type::not_found) fail(error.message());
    if (!fs::is_symlink(status)) return path;
    if (links == kMostLinks) fail(std::strerror(ELOOP));
    const fs::path to = fs::read_symlink(path, error);
    if (error) fail(error.message());
    path = to.is_absolute() ? to : path.parent_path() / to;
  }
}

void AtomicFile::check_replaceable(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::none)
    throw Error(ErrorCode::write_failed,
                {.subject = path.string(),
                 .expected = fmt::format("cannot be written ({})", error.message())});
  if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) return;
  throw Error(ErrorCode::write_failed,
              {.subject = path.string(),
               .expected = fmt::format(
                   "cannot be written, being {}",
                   std::filesystem::is_directory(status) ? "a folder" : "a pipe or device"),
               .hint = "Choose another name"});
}

AtomicFile::AtomicFile(std::filesystem::path path, Until until) : path_(std::move(path)) {
  if (until == Until::temporary_name || !open_nameless()) open_temporary();
}

bool AtomicFile::open_nameless() {
  const std::filesystem::path folder = path_.has_parent_path() ? path_.parent_path() : ".";
  descriptor_ = ::open(folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666);
  // Its name will be given through /proc.
  const bool linkable = descriptor_ >= 0 && ::access(place_of(descriptor_).c_str(), F_OK) == 0;
  if (!linkable && descriptor_ >= 0) close();
  return linkable;
}

void AtomicFile::open_temporary() {
  std::string name = beside(path_, ".part-XXXXXX").string();
  descriptor_ = ::mkostemp(name.data(), O_CLOEXEC);
  if (descriptor_ < 0) fail(errno);
  temporary_ = name;
  const mode_t mask = ::umask(0);
  ::umask(mask);
  ::fchmod(descriptor_, 0666 & ~mask);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::fail(int error) {
  throw Error(ErrorCode::write_failed,
              {.subject = path_.string(),
               .expected = fmt::format("cannot be written ({})", std::strerror(error))});
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail(errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
    written_ += static_cast<size_t>(written);
  }
  // The disk begins while more is being made, so that `commit` need not wait for all of it.
  constexpr size_t kWorthIt = 16 << 20;
  if (written_ - started_ < kWorthIt) return;
  ::sync_file_range(descriptor_, static_cast<off64_t>(started_),
                    static_cast<off64_t>(written_ - started_), SYNC_FILE_RANGE_WRITE);
  started_ = written_;
}

bool AtomicFile::link(const std::filesystem::path& name) {
  const std::string from = temporary_.empty() ? place_of(descriptor_) : temporary_.string();
  return ::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

void AtomicFile::commit() {
  check_replaceable(path_);
  if (struct stat old{}; ::stat(path_.c_str(), &old) == 0)
    ::fchmod(descriptor_, old.st_mode & 0777);
  if (::fsync(descriptor_) != 0) fail(errno);
  // Only a name can replace a name, so a nameless file gets one for a moment.
  for (int attempt = 0; temporary_.empty(); ++attempt) {
    const std::filesystem::path name =
        beside(path_, fmt::format(".part-{}-{}", ::getpid(), attempt));
    if (link(name))
      temporary_ = name;
    else if (errno != EEXIST)
      fail(errno);
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
  close();
}

bool AtomicFile::commit_new() {
  if (::fsync(descriptor_) != 0) fail(errno);
  // Linking fails if the name exists, where renaming would replace it.
  if (link(path_)) {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    close();
    return true;
  }
  if (errno == EEXIST) return false;
  if (temporary_.empty()) fail(errno);
  // No links on this file system: the nearest it can do.
  std::error_code none;
  if (std::filesystem::exists(path_, none)) return false;
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(errno);
  close();
  return true;
}

void AtomicFile::close() {
  ::close(descriptor_);
  descriptor_ = -1;
}

}  // namespace atelier
