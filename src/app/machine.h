// What the operating system says about this machine, as people want to read it.
#pragma once

#include <string>

#include "device/cpu/features.h"
#include "device/memory_info.h"

namespace atelier {

struct Machine {
  std::string system;  // "Debian GNU/Linux 12 (bookworm), Linux 6.1.0"
  CpuFeatures cpu;
  MemoryInfo memory;
  std::string nvidia_driver;  // version, or "" when there is none
};

/// Asks the processor and reads /proc, /sys and /etc; what cannot be read stays empty.
Machine look_at_machine();

}  // namespace atelier
