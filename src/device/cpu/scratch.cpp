// Working memory: large blocks from the arena, small ones from the C library's allocator.
#include "device/cpu/scratch.h"

#include <cstdlib>
#include <new>

#include "device/cpu/arena.h"

namespace atelier {

Scratch::Scratch(int64_t bytes) {
  constexpr int64_t kAlignment = 64;
  const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const auto size = static_cast<size_t>(rounded);
  Arena* const arena = size >= kLargeBlock ? large_blocks() : nullptr;
  if (arena != nullptr) data_ = arena->allocate(size);
  if (data_ == nullptr) data_ = std::aligned_alloc(kAlignment, size);
  if (data_ == nullptr) throw std::bad_alloc();
}

Scratch::~Scratch() {
  Arena* const arena = large_blocks();
  if (arena != nullptr && arena->owns(data_))
    arena->free(data_);
  else
    std::free(data_);
}

void* Scratch::data() const { return data_; }

}  // namespace atelier
