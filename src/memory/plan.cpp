// Shares of weights by what is left of the limit.
#include "memory/plan.h"

#include <algorithm>

namespace atelier {

PhaseMemory plan_phase(const Residency::Needs& weights, Bytes other, Bytes limit) {
  const Bytes slots = std::min(weights.prepared, weights.largest + weights.largest);
  const Bytes least = other + slots;
  if (weights.as_stored > Bytes()) {
    // They may leave memory, too.
    if (least + weights.as_stored > limit) return {Bytes(), std::max(limit, least), least, true};
    PhaseMemory beside = plan_phase({weights.prepared, weights.stored, weights.largest},
                                    other + weights.as_stored, limit);
    beside.least = least;
    return beside;
  }
  if (weights.prepared + other <= limit) return {weights.prepared, weights.prepared + other, least};
  const auto prepared = static_cast<double>(weights.prepared.count());
  const auto stored = static_cast<double>(weights.stored.count());
  const auto left = static_cast<double>((limit - least).count());
  // A share s of the weights takes s * prepared, the rest (1 - s) * stored. Stored weights may
  // leave memory when there is no room for them: they can be read again.
  const double share = prepared > stored ? (left - stored) / (prepared - stored) : left / prepared;
  const Bytes kept(static_cast<int64_t>(std::clamp(share, 0.0, 1.0) * prepared));
  const Bytes rest(static_cast<int64_t>((1 - std::clamp(share, 0.0, 1.0)) * stored));
  const bool fits = least + kept + rest <= limit;
  const Bytes needed = least + kept + (fits ? rest : std::max(Bytes(), limit - least - kept));
  return {kept, needed, least, !fits};
}

}  // namespace atelier
