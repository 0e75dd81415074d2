// The allocator's settings, for glibc.
#include "device/cpu/allocation.h"

#include <cstdlib>
#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "device/cpu/arena.h"

namespace atelier {

bool tune_allocator() {
#if defined(__GLIBC__)
  constexpr int kLargestHeapBlock = 1 << 30;
  constexpr int kTrimAbove = 2047 << 20;
  constexpr int kGrowBy = 256 << 20;
  return mallopt(M_MMAP_THRESHOLD, kLargestHeapBlock) == 1 &&
         mallopt(M_TRIM_THRESHOLD, kTrimAbove) == 1 && mallopt(M_TOP_PAD, kGrowBy) == 1;
#else
  return false;
#endif
}

void trim_allocator() {
  if (Arena* const arena = large_blocks()) arena->trim();
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace atelier
