// Memory for weights that are prepared anew for each use.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace atelier {

/// Buffers that weights take turns in: the last one given back is handed out first, as its pages
/// are there already and its lines may still be in the caches. Thread-safe.
class Slots : public std::enable_shared_from_this<Slots> {
 public:
  Slots();
  ~Slots();
  Slots(const Slots&) = delete;
  Slots& operator=(const Slots&) = delete;
  /// The size in bytes that a new buffer has at least, of which only what is written takes memory.
  void expect(int64_t bytes);
  /// `bytes` bytes in the last buffer given back that has room for them, or in a new one; aligned
  /// to 64. The buffer comes back when the tensor goes, also after these Slots. Throws
  /// std::bad_alloc.
  at::Tensor take(int64_t bytes);

 private:
  class Buffer;
  void give_back(std::unique_ptr<Buffer> buffer);

  std::mutex mutex_;
  int64_t expected_ = 0;
  std::vector<std::unique_ptr<Buffer>> free_;
};

}  // namespace atelier
