// Settings of the C library's allocator, for what does not come from the arena: blocks of other
// libraries and small ones.
#pragma once

namespace atelier {

/// Makes glibc keep freed memory instead of returning it: blocks up to 1 GiB come from the heap,
/// the heap is trimmed only above 2 GiB free, and grows by 256 MiB at a time. Without it every
/// large block is unmapped when freed and faulted in page by page again. The retained heap counts
/// towards a memory budget. Called once by the program before it starts threads; does nothing where
/// the allocator has no such settings. Returns whether all three settings were taken.
bool tune_allocator();

/// Gives freed memory, the heap's and the arena's, back to the kernel, where it stands in the way
/// of what is of neither: mapped files and the slots of weights. What is used again is faulted in
/// again. Safe from any thread; does nothing where the allocator cannot.
void trim_allocator();

}  // namespace atelier
