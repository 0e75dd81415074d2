// How much of a component's weights may stay prepared within a limit of memory.
#pragma once

#include "base/bytes.h"
#include "memory/residency.h"

namespace atelier {

/// What one phase of a run keeps and takes.
struct PhaseMemory {
  Residency::Stay stay;
  Bytes needed;  // with everything else the phase takes
  Bytes least;  // what it could do with
  /// Whether stored weights do not fit beside the rest and are read over and over.
  bool from_disk() const { return !stay.stored || !stay.as_stored; }
};

/// Plans a phase that uses `weights` and takes `other` bytes beside them: all weights prepared if
/// that fits into `limit`, else as many as fit beside the stored form of the others and two that
/// are being prepared. Where the stored form does not fit the others come from disk, and as many
/// stay prepared as fit beside those two. `needed` is more than `limit` where not even these do.
PhaseMemory plan_phase(const Residency::Needs& weights, Bytes other, Bytes limit);

}  // namespace atelier
