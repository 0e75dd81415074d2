// Working memory of the kernels: aligned, uninitialised, freed at the end of the scope.
#pragma once

#include <cstdint>

namespace atelier {

/// `bytes` bytes aligned to a cache line. Throws std::bad_alloc. All members are out of line, so
/// that translation units for different instruction sets share them safely.
class Scratch {
 public:
  explicit Scratch(int64_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data() const;

 private:
  void* data_ = nullptr;
};

}  // namespace atelier
