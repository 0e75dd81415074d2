// Handing out tasks on libtorch's thread pool.
#include "device/torch_parallel.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>

namespace atelier {
namespace {

constexpr int64_t kPiecesPerThread = 8;

}  // namespace

int TorchParallel::threads() const { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

void TorchParallel::run(int64_t count, Body body, const void* context) const {
  const int64_t workers = std::min<int64_t>(threads(), count);
  if (workers <= 1) return body(context, 0, count);
  const int64_t piece = std::max<int64_t>(1, count / (workers * kPiecesPerThread));
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    for (int64_t begin = next.fetch_add(piece); begin < count; begin = next.fetch_add(piece))
      body(context, begin, std::min(count, begin + piece));
  });
}

}  // namespace atelier
