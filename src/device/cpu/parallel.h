// How kernels reach threads: an interface the caller implements, so that they need no thread
// library.
#pragma once

#include <cstdint>

namespace atelier {

/// Runs ranges of independent tasks. Kernels cut their work into tasks by shape alone, so results
/// do not depend on `threads()` or on which thread runs what.
class Parallel {
 public:
  using Body = void (*)(const void* context, int64_t begin, int64_t end);
  virtual ~Parallel();
  /// The most ranges that run at the same time, at least 1.
  virtual int threads() const = 0;
  /// Calls body(context, begin, end) on disjoint ranges that together cover [0, count), then
  /// returns.
  virtual void run(int64_t count, Body body, const void* context) const = 0;
};

/// Everything in the calling thread.
class SerialParallel final : public Parallel {
 public:
  int threads() const override;
  void run(int64_t count, Body body, const void* context) const override;
};

/// `threads` threads started for each call: for tools and tests, not for a hot path.
class SpawnParallel final : public Parallel {
 public:
  explicit SpawnParallel(int threads);
  int threads() const override;
  void run(int64_t count, Body body, const void* context) const override;

 private:
  int threads_;
};

/// Calls `body(begin, end)` on ranges that cover [0, count).
template <class F>
void parallel_for(const Parallel& parallel, int64_t count, const F& body) {
  parallel.run(
      count,
      [](const void* context, int64_t begin, int64_t end) {
        (*static_cast<const F*>(context))(begin, end);
      },
      &body);
}

}  // namespace atelier
