// How long steps take: their median, what is left, and the share that is not the model's.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

namespace atelier {

/// Times the steps of one or more runs. One thread.
class StepClock {
 public:
  using Clock = std::chrono::steady_clock;

  /// Adds to the time spent inside the model while it lives.
  class Inside {
   public:
    explicit Inside(StepClock& clock) : clock_(clock), begin_(Clock::now()) {}
    Inside(const Inside&) = delete;
    Inside& operator=(const Inside&) = delete;
    ~Inside() { clock_.inside_ += seconds_since(begin_); }

   private:
    StepClock& clock_;
    Clock::time_point begin_;
  };

  explicit StepClock(int64_t steps_in_all) : steps_in_all_(steps_in_all) {}
  /// The steps of a run begin now.
  void begin_run();
  /// A step is done; returns its seconds.
  double end_step();
  /// The steps of a run are over; what came after the last one counts as outside.
  void end_run();

  double median() const;
  /// Seconds until all steps of all runs are done, by the median so far.
  double left() const;
  /// Mean seconds per step that were not spent inside the model.
  double outside_per_step() const;

  static double seconds_since(Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  }

 private:
  int64_t steps_in_all_;
  std::vector<double> steps_;
  double inside_ = 0, total_ = 0;
  Clock::time_point run_, step_;
};

}  // namespace atelier
