// One layer of a usual width, run until the best of a few calls is known.
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
  double best = 0;
  const auto begin = StepClock::Clock::now();
  while (StepClock::seconds_since(begin) < kEnough) {
    const auto call = StepClock::Clock::now();
    layer(x);
    best = std::max(best, 2.0 * kRows * kWidth * kWidth / StepClock::seconds_since(call));
  }
  return best;
}

}  // namespace atelier
