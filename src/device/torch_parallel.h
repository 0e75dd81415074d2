// libtorch's threads for code that asks for a Parallel.
#pragma once

#include "device/cpu/parallel.h"

namespace atelier {

/// Kernels' tasks on libtorch's threads, handed out in small runs so that a thread the system slows
/// down does not hold the others up. Inside a parallel region it runs in the calling thread alone.
class TorchParallel final : public Parallel {
 public:
  int threads() const override;
  void run(int64_t count, Body body, const void* context) const override;
};

}  // namespace atelier
