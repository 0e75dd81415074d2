// Notices a step that took far too long, and says why and what would help.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "app/engine/vitals.h"
#include "base/json.h"

namespace atelier {

/// What a run could be asked to do with less.
struct RunSize {
  int64_t width = 0, height = 0, batch = 1;  // pixels, pictures
  std::string encoding;  // of most of the model's bytes: "F16", "Q8_0"
  bool could_tile = false;  // --tiled-vae would lower the peak
  Bytes ram = {};  // what --ram leaves it; 0: all there is
};

enum class SlowCause : uint8_t { first_reading, memory, limit, others, heat, unknown };

/// A step as the system saw it.
struct StepSeen {
  Vitals before, after;
  double seconds = 0;
  double usual_clock = 0;  // the highest seen so far
  bool first = false;  // of the call: weights may never have been in memory
};

/// Why a step was slow.
struct Diagnosis {
  SlowCause cause = SlowCause::unknown;
  std::string evidence;  // "3.1 GiB swapped out"
};
Diagnosis diagnose(const StepSeen& step);

/// What to change, as things are `now`; empty if nothing here would help.
std::string advice(SlowCause cause, const RunSize& size, const Vitals& now);

/// Judges the steps of a call, one after another. One thread.
class SlowSteps {
 public:
  /// `planned` seconds a call of the model should take, 0 if unknown.
  SlowSteps(RunSize size, double planned) : size_(std::move(size)), planned_(planned) {}
  /// Steps begin now, or again.
  void begin(const Vitals& now);
  /// A step of so many calls of the model is done. A "slow_step" event if each took more than 1.5
  /// times the median of the steps before, or twice the plan if a cause is to be seen, or four
  /// times the plan while there is no median, and the step 0.2 s more than usual. Plans of less
  /// than 0.1 s a step are not compared with.
  std::optional<Json> step(double seconds, int64_t calls, const Vitals& now);

 private:
  RunSize size_;
  double planned_ = 0, clock_ = 0;
  std::vector<double> past_;  // seconds per call of each step
  Vitals last_;
  std::set<SlowCause> told_;
};

}  // namespace atelier
