// Memory for large blocks that come and go: activations, working memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <unordered_map>

namespace atelier {

/// Bytes [begin, begin + size) that touch no others of the set.
class Intervals {
 public:
  void add(size_t begin, size_t size);
  /// Takes [begin, begin + size) out, as far as it is there; returns how much was.
  size_t remove(size_t begin, size_t size);
  /// How much of [begin, begin + size) is there.
  size_t within(size_t begin, size_t size) const;
  const std::map<size_t, size_t>& all() const { return sizes_; }

 private:
  std::map<size_t, size_t> sizes_;  // by their begin
};

/// Blocks in one range of addresses. A block goes where most of its pages are there already, and
/// else where it fits best; neighbours that are free are one, and pages of free blocks stay for the
/// next as long as all pages together are no more than the most that was ever in use at once: what
/// a run takes is what its blocks need, not what a heap breaks into, and hardly anything is faulted
/// in anew from one step to the next. Asks for huge pages. Thread-safe.
class Arena {
 public:
  /// Reserves so many bytes of addresses, which take no memory, or as many as it can get; blocks
  /// are never more than `most` bytes together.
  explicit Arena(size_t addresses, size_t most = SIZE_MAX);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  /// Memory aligned to a page, or null where there is no room left.
  void* allocate(size_t bytes);
  /// Gives back what `allocate` returned.
  void free(void* block);
  bool owns(const void* block) const;
  /// Gives free pages back to the operating system; what was most in use counts from now on.
  void trim();
  size_t used() const;  // bytes of blocks
  size_t kept() const;  // bytes of free pages

 private:
  void release(size_t bytes);

  mutable std::mutex mutex_;
  std::byte* base_ = nullptr;
  size_t size_, most_;
  Intervals free_, kept_;  // kept: those of free that have pages
  std::unordered_map<size_t, size_t> blocks_;
  size_t used_ = 0, most_used_ = 0, kept_bytes_ = 0;
};

/// Blocks smaller than this are better off in the C library's heap.
constexpr size_t kLargeBlock = 256 << 10;

/// Of the process, for all blocks from `kLargeBlock` on; lives as long as it. Null where a
/// sanitizer watches the heap instead.
Arena* large_blocks();

}  // namespace atelier
