// What the system says of this process and of the machine at one moment, for telling why a step
// was slow.
#pragma once

#include <cstdint>

#include "base/bytes.h"

namespace atelier {

/// Readings; counts go on from the start of the process or of the system. What a system does not
/// tell is 0.
struct Vitals {
  Bytes resident, swapped;  // of this process
  Bytes allowed;  // what it may hold at most
  Bytes available;  // what it could still take
  Bytes read;  // from disks, for this process
  uint64_t major_faults = 0;  // times this process waited for a page from a disk
  double memory_stall = 0;  // seconds in which something waited for memory
  double own = 0, busy = 0, stolen = 0;  // processor seconds: this process, all, other guests
  int processors = 1;
  double held_back = 0;  // seconds of processors that the cgroup's limit took from its programs
  uint64_t throttled = 0;  // times a processor was slowed down for heat
  double megahertz = 0;  // mean of the processors' clocks
};

/// Reads /proc, /sys and the cgroup; some tenths of a millisecond. Any thread.
Vitals read_vitals();

}  // namespace atelier
