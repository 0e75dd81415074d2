// Shares of weights by what is left of the limit.
#include "memory/plan.h"

#include <algorithm>

namespace atelier {

PhaseMemory plan_phase(const Residency::Needs& weights, Bytes other, Bytes limit) {
  const Bytes slots = std::min(weights.prepared, weights.largest + weights.largest);
  const Bytes least = other + slots, all = other + weights.prepared + weights.as_stored;
  if (all <= limit) return {{.prepared = weights.prepared}, all, least};
  if (least > limit) return {{.prepared = {}, .stored = false, .as_stored = false}, least, least};
  const bool as_stored = least + weights.as_stored <= limit;
  const Bytes left = limit - least - (as_stored ? weights.as_stored : Bytes());
  const auto prepared = static_cast<double>(weights.prepared.count());
  const auto spare = static_cast<double>((left - weights.stored).count());
  const auto growth = prepared - static_cast<double>(weights.stored.count());
  // A share s of the weights takes s * prepared, the rest (1 - s) * stored.
  if (as_stored && growth > 0 && spare >= 0) {
    const double share = std::min(spare / growth, 1.0);
    return {{.prepared = Bytes(static_cast<int64_t>(share * prepared))}, limit, least};
  }
  return {{.prepared = std::min(left, weights.prepared), .stored = false, .as_stored = as_stored},
          limit,
          least};
}

}  // namespace atelier
