// The two implementations of Parallel that need only the standard library.
#include "device/cpu/parallel.h"

#include <algorithm>
#include <thread>
#include <vector>

namespace atelier {

Parallel::~Parallel() = default;

int SerialParallel::threads() const { return 1; }

void SerialParallel::run(int64_t count, Body body, const void* context) const {
  if (count > 0) body(context, 0, count);
}

SpawnParallel::SpawnParallel(int threads) : threads_(std::max(1, threads)) {}

int SpawnParallel::threads() const { return threads_; }

void SpawnParallel::run(int64_t count, Body body, const void* context) const {
  const int64_t step = (count + threads_ - 1) / threads_;
  std::vector<std::jthread> threads;
  for (int64_t begin = step; begin < count; begin += step) {
    threads.emplace_back(body, context, begin, std::min(count, begin + step));
  }
  if (count > 0) body(context, 0, std::min(count, step));
}

}  // namespace atelier
