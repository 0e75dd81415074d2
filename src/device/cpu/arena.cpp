// Best fit over free intervals, and the pages they keep.
#include "device/cpu/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>

namespace atelier {
namespace {

constexpr size_t kUnit = 64 << 10;  // blocks are multiples of it
constexpr size_t kLeast = 64 << 20;  // addresses that are worth reserving
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr size_t kAddresses = size_t{1} << 40;
#endif

}  // namespace

void Intervals::add(size_t begin, size_t size) {
  auto after = sizes_.lower_bound(begin);
  if (after != sizes_.end() && begin + size == after->first) {
    size += after->second;
    after = sizes_.erase(after);
  }
  if (after != sizes_.begin()) {
    const auto before = std::prev(after);
    if (before->first + before->second == begin) {
      before->second += size;
      return;
    }
  }
  sizes_.emplace_hint(after, begin, size);
}

size_t Intervals::remove(size_t begin, size_t size) {
  const size_t end = begin + size;
  size_t removed = 0;
  auto it = sizes_.upper_bound(begin);
  if (it != sizes_.begin()) --it;
  while (it != sizes_.end() && it->first < end) {
    const size_t first = it->first, last = first + it->second;
    const size_t from = std::max(first, begin), to = std::min(last, end);
    if (from >= to) {
      ++it;
      continue;
    }
    removed += to - from;
    it = sizes_.erase(it);
    if (first < from) sizes_.emplace(first, from - first);
    if (to < last) it = sizes_.emplace(to, last - to).first;
  }
  return removed;
}

size_t Intervals::within(size_t begin, size_t size) const {
  const size_t end = begin + size;
  size_t bytes = 0;
  auto it = sizes_.upper_bound(begin);
  if (it != sizes_.begin()) --it;
  for (; it != sizes_.end() && it->first < end; ++it) {
    const size_t from = std::max(it->first, begin), to = std::min(it->first + it->second, end);
    if (from < to) bytes += to - from;
  }
  return bytes;
}

Arena::Arena(size_t addresses, size_t most) : size_(addresses), most_(most) {
  while (size_ >= kLeast) {
    void* const range = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range != MAP_FAILED) {
      base_ = static_cast<std::byte*>(range);
#ifdef MADV_HUGEPAGE
      ::madvise(range, size_, MADV_HUGEPAGE);
#endif
      free_.add(0, size_);
      return;
    }
    size_ /= 2;
  }
  size_ = 0;
}

Arena::~Arena() {
  if (base_ != nullptr) ::munmap(base_, size_);
}

void* Arena::allocate(size_t bytes) {
  if (bytes > size_) return nullptr;
  const size_t size = std::max(kUnit, (bytes + kUnit - 1) / kUnit * kUnit);
  const std::lock_guard lock(mutex_);
  if (used_ > most_ || size > most_ - used_) return nullptr;
  // Where most pages are kept already, else where least is left over.
  std::optional<size_t> best;
  std::pair<size_t, size_t> best_cost;
  for (const auto& [first, bytes_free] : free_.all()) {
    if (bytes_free < size) continue;
    const std::pair cost{size - kept_.within(first, size), bytes_free};
    if (best && cost >= best_cost) continue;
    best = first;
    best_cost = cost;
  }
  if (!best) return nullptr;
  const size_t begin = *best;
  blocks_.emplace(begin, size);
  free_.remove(begin, size);
  kept_bytes_ -= kept_.remove(begin, size);
  used_ += size;
  most_used_ = std::max(most_used_, used_);
  if (used_ + kept_bytes_ > most_used_) release(used_ + kept_bytes_ - most_used_);
  return base_ + begin;
}

void Arena::free(void* block) {
  const std::lock_guard lock(mutex_);
  const auto found = blocks_.find(static_cast<size_t>(static_cast<std::byte*>(block) - base_));
  const auto [begin, size] = *found;
  blocks_.erase(found);
  free_.add(begin, size);
  kept_.add(begin, size);
  used_ -= size;
  kept_bytes_ += size;
}

bool Arena::owns(const void* block) const {
  const auto address = reinterpret_cast<uintptr_t>(block);
  const auto base = reinterpret_cast<uintptr_t>(base_);
  return base_ != nullptr && address >= base && address - base < size_;
}

// From the highest addresses on, where blocks are least likely to come back to.
void Arena::release(size_t bytes) {
  while (bytes > 0 && !kept_.all().empty()) {
    const auto [begin, size] = *std::prev(kept_.all().end());
    const size_t part = std::min(size, bytes), from = begin + size - part;
    ::madvise(base_ + from, part, MADV_DONTNEED);
    kept_.remove(from, part);
    kept_bytes_ -= part;
    bytes -= part;
  }
}

void Arena::trim() {
  const std::lock_guard lock(mutex_);
  release(kept_bytes_);
  most_used_ = used_;
}

size_t Arena::used() const {
  const std::lock_guard lock(mutex_);
  return used_;
}

size_t Arena::kept() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

Arena* large_blocks() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return nullptr;
#else
  // Never destroyed: tensors may outlive everything else. What no memory can hold is left to the
  // heap, which refuses it, where pages of addresses would be given until the process is killed.
  static Arena* const arena =
      new Arena(kAddresses, static_cast<size_t>(::sysconf(_SC_PHYS_PAGES)) *
                                static_cast<size_t>(::sysconf(_SC_PAGESIZE)));
  return arena;
#endif
}

}  // namespace atelier
