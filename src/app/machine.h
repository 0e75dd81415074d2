// What the operating system says about this machine: processor, usable cores, memory, driver.
#pragma once

#include <string>
#include <vector>

#include "base/bytes.h"

namespace atelier {

struct Machine {
  std::string system;  // "Debian GNU/Linux 12 (bookworm), Linux 6.1.0"
  std::string processor;  // "Intel(R) Xeon(R) ..."
  std::vector<std::string> features;  // those that matter for speed, e.g. "avx512_bf16"
  int cores = 1;  // this process may use, by affinity and cgroup quota
  Bytes memory, memory_available;  // the smaller of machine and cgroup
  Bytes swap;
  std::string nvidia_driver;  // version, or "" when there is none
};

/// Reads /proc, /sys and the scheduler; what cannot be read stays empty.
Machine look_at_machine();

}  // namespace atelier
