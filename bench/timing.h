// What the benchmarks time with.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

namespace atelier {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

/// Mean seconds of so many calls, one after another.
inline double seconds_of(const std::function<void()>& call, int64_t times = 1) {
  const auto begin = Clock::now();
  for (int64_t i = 0; i < times; ++i) call();
  return seconds_since(begin) / static_cast<double>(times);
}

/// The upper one of two; `values` are not empty.
inline double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace atelier
