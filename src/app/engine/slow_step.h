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

enum class SlowCause : uint8_t { memory, others, heat, unknown };

/// Why a step of `seconds` was slow, from the readings before and after it. `usual_clock` is the
/// highest clock seen so far.
struct Diagnosis {
  SlowCause cause = SlowCause::unknown;
  std::string evidence;  // "3.1 GiB swapped out"
};
Diagnosis diagnose(const Vitals& before, const Vitals& after, double seconds, double usual_clock);

/// What to change; empty if nothing here would help.
std::string advice(SlowCause cause, const RunSize& size);

/// Judges the steps of a call, one after another. One thread.
class SlowSteps {
 public:
  /// `planned` seconds a call of the model should take, 0 if unknown.
  SlowSteps(RunSize size, double planned) : size_(std::move(size)), planned_(planned) {}
  /// Steps begin now, or again.
  void begin(const Vitals& now);
  /// A step of so many calls of the model is done. A "slow_step" event if each took more than 1.5
  /// times the median of the steps before, or twice the plan if a cause is to be seen, and the step
  /// 0.2 s more than usual.
  std::optional<Json> step(double seconds, int64_t calls, const Vitals& now);

 private:
  RunSize size_;
  double planned_ = 0, clock_ = 0;
  std::vector<double> past_;  // seconds per call of each step
  Vitals last_;
  std::set<SlowCause> told_;
};

}  // namespace atelier
