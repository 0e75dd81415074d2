// Which weights lie where. In this version every weight stays prepared once it is.
#pragma once

#include <functional>
#include <memory>

#include "base/bytes.h"
#include "memory/patch.h"
#include "memory/weight.h"

namespace atelier {

/// Prepared weights of one engine: hands out handles, prepares, counts. Thread-safe.
class Residency {
 public:
  Residency();
  ~Residency();
  Residency(const Residency&) = delete;
  Residency& operator=(const Residency&) = delete;

  /// A handle to `operand` on `compute`; reads nothing yet.
  Weight bind(Operand operand, Form form, const Compute& compute);

  /// Prepares every weight that has handles, is not prepared yet and whose form is not `on_demand`,
  /// in the order of binding, and lets go of the files' pages behind it. `progress` is told the
  /// share done (0 to 1) now and then; returning false stops early.
  void prepare_all(const std::function<bool(double)>& progress = {});

  /// Replaces all patches by `patches`. Weights whose patches differ from before are let go and
  /// prepared again when next asked for; all others stay as they are. No weight of this residency
  /// may be pinned meanwhile. Patches of names that no weight has are kept for weights to come.
  void set_patches(PatchTable patches);

  /// Bytes of prepared weights at this moment, and the most there have been.
  Bytes weight_bytes() const;
  Bytes peak_weight_bytes() const;

 private:
  friend class Weight::Entry;
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace atelier
