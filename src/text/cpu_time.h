// Processor time of an action, for tests that bound it whatever else the machine does.
#pragma once

#include <ctime>

namespace atelier {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr double kSlowdown = 20;
#else
inline constexpr double kSlowdown = 1;
#endif

/// Seconds the process computed during `action`, as a build without sanitizers would.
template <typename Action>
double cpu_seconds(Action&& action) {
  const std::clock_t begin = std::clock();
  action();
  return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC / kSlowdown;
}

}  // namespace atelier
