// Working memory from the C library's allocator.
#include "device/cpu/scratch.h"

#include <cstdlib>
#include <new>

namespace atelier {

Scratch::Scratch(int64_t bytes) {
  constexpr int64_t kAlignment = 64;
  const int64_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  data_ = std::aligned_alloc(kAlignment, static_cast<size_t>(rounded));
  if (data_ == nullptr) throw std::bad_alloc();
}

Scratch::~Scratch() { std::free(data_); }

void* Scratch::data() const { return data_; }

}  // namespace atelier
