// Arithmetic on step times.
#include "app/engine/step_clock.h"

#include <algorithm>

namespace atelier {

void StepClock::begin_run() { run_ = step_ = Clock::now(); }

double StepClock::end_step() {
  const double seconds = seconds_since(step_);
  step_ = Clock::now();
  steps_.push_back(seconds);
  return seconds;
}

void StepClock::end_run() { total_ += seconds_since(run_); }

double StepClock::median() const {
  if (steps_.empty()) return 0;
  std::vector<double> sorted = steps_;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

double StepClock::left() const {
  const auto done = static_cast<int64_t>(steps_.size());
  return static_cast<double>(std::max<int64_t>(steps_in_all_ - done, 0)) * median();
}

double StepClock::outside_per_step() const {
  return steps_.empty() ? 0 : std::max(0.0, total_ - inside_) / static_cast<double>(steps_.size());
}

}  // namespace atelier
