// Buffers as anonymous mappings, apart from the heap, where what lives between two uses would break
// up their place.
#include "memory/slots.h"

#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace atelier {
namespace {
constexpr size_t kMostFree = 2;  // buffers kept while nobody uses them
}

class Slots::Buffer {
 public:
  explicit Buffer(int64_t bytes) : bytes_(bytes) {
    data_ = ::mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    ::madvise(data_, static_cast<size_t>(bytes), MADV_HUGEPAGE);
#endif
  }
  ~Buffer() { ::munmap(data_, static_cast<size_t>(bytes_)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  int64_t bytes() const { return bytes_; }
  void* data() const { return data_; }

 private:
  int64_t bytes_;
  void* data_;
};

Slots::Slots() = default;
Slots::~Slots() = default;

void Slots::expect(int64_t bytes) {
  const std::lock_guard lock(mutex_);
  expected_ = bytes;
}

at::Tensor Slots::take(int64_t bytes) {
  std::unique_ptr<Buffer> buffer;
  {
    const std::lock_guard lock(mutex_);
    free_.reserve(kMostFree + 1);  // giving back must not throw
    const auto fits = [&](const auto& candidate) { return candidate->bytes() >= bytes; };
    const auto found = std::find_if(free_.rbegin(), free_.rend(), fits);
    if (found != free_.rend()) {
      buffer = std::move(*found);
      free_.erase(std::next(found).base());
    }
  }
  if (!buffer) buffer = std::make_unique<Buffer>(std::max({int64_t{1}, bytes, expected_}));
  void* const data = buffer->data();
  // A function must be copyable, a unique_ptr is not.
  const auto give_back = [slots = weak_from_this(),
                          held =
                              std::make_shared<std::unique_ptr<Buffer>>(std::move(buffer))](void*) {
    if (const auto owner = slots.lock()) owner->give_back(std::move(*held));
  };
  return at::from_blob(data, {bytes}, give_back, at::dtype(at::kByte));
}

void Slots::give_back(std::unique_ptr<Buffer> buffer) {
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(buffer));
  if (free_.size() > kMostFree) free_.erase(free_.begin());
}

}  // namespace atelier
