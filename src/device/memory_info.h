// How much memory the machine and this process's cgroup have, and how much of it is free.
#pragma once

#include "base/bytes.h"

namespace atelier {

/// Memory in the sense of "could be allocated without swapping".
struct MemoryInfo {
  Bytes total;  // of the machine
  Bytes available;  // the kernel's estimate for the machine
  Bytes cgroup_limit;  // tightest limit of this process's cgroup and its ancestors; 0 = none
  Bytes cgroup_used;  // charged there, without page cache that can be dropped

  /// What this process may hold at most: the machine's memory or the cgroup's limit.
  Bytes usable_total() const;
  /// What it may still take: the lesser of the machine's and the cgroup's free memory.
  Bytes usable_available() const;
};

/// Reads /proc/meminfo and the cgroup files (v2, else v1); fields it cannot read are 0.
MemoryInfo read_memory_info();

/// Resident bytes of this process now, and the most it ever had.
struct ProcessMemory {
  Bytes resident;
  Bytes peak;
};

/// Reads /proc/self/status; fields it cannot read are 0.
ProcessMemory read_process_memory();

}  // namespace atelier
