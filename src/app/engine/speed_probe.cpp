// One layer of a usual width, and one sum of what no cache holds: the best of a few calls.
#include "app/engine/speed_probe.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "app/engine/step_clock.h"
#include "memory/memory_source.h"
#include "nn/layers.h"

namespace atelier {
namespace {

constexpr int64_t kWidth = 1024, kRows = 1024;
constexpr double kEnough = 0.04;  // seconds
constexpr int64_t kRead = 64 << 20;  // bytes

/// Of one call.
template <class Call>
double best_seconds(Call call) {
  double best = kEnough;
  const auto begin = StepClock::Clock::now();
  while (StepClock::seconds_since(begin) < kEnough) {
    const auto one = StepClock::Clock::now();
    call();
    best = std::min(best, StepClock::seconds_since(one));
  }
  return best;
}

}  // namespace

double operations_per_second(const Compute& compute) {
  const auto source = std::make_shared<MemorySource>();
  source->put("weight", at::full({kWidth, kWidth}, 1.0 / 64));
  Residency residency;
  BindReport report;
  const Scope scope(
      std::make_shared<const Binding>(Binding{KeyMap(source, "", {}), residency, report, compute}));
  const nn::Linear layer(scope, kWidth, kWidth, nn::Bias::none);
  const at::Tensor x =
      at::ones({kRows, kWidth}, at::dtype(compute.dtype).device(compute.device.torch()));
  layer(x.narrow(0, 0, 16));  // packs
  return 2.0 * kRows * kWidth * kWidth / best_seconds([&] { layer(x); });
}

double bytes_per_second() {
  const at::Tensor numbers = at::zeros({kRead / 4}, at::kFloat);
  return static_cast<double>(kRead) / best_seconds([&] { numbers.sum(); });
}

}  // namespace atelier
