// Tensors on the CPU from the engine's own memory.
#pragma once

namespace atelier {

/// Has libtorch take large CPU tensors from `large_blocks` from now on; small ones stay where they
/// were, and so do all that are there already. For the whole process; called by programs before
/// they draw, as often as they like. Does nothing where there is no such memory.
void use_arena_for_tensors();

}  // namespace atelier
