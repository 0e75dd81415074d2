// Which weights stay prepared, and which are prepared anew each time they are used.
#pragma once

#include <functional>
#include <memory>
#include <string_view>

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

  /// Prepares every weight that has handles, may stay, is not prepared yet and whose form is not
  /// `on_demand`, in the order of binding, asks for the bytes of those that may not, and lets go of
  /// the files' pages behind it. `progress` is told the share done (0 to 1) now and then; returning
  /// false stops early.
  void prepare_all(const std::function<bool(double)>& progress = {});

  /// What the weights that have handles take, apart from those prepared on demand.
  struct Needs {
    Bytes prepared;  // all of them prepared; views of a file count with the file's bytes
    Bytes stored;  // as the files have them
    Bytes largest;  // the largest prepared one
    Bytes as_stored = {};  // of others, which layers read as the files have them
  };
  Needs needs() const;
  /// How many of these weights take the form of this name.
  int64_t count_form(std::string_view name) const;

  /// What may stay in memory between two uses.
  struct Stay {
    Bytes prepared;  // of prepared weights, in all
    bool stored = true;  // the files' bytes of the others
    bool as_stored = true;  // the files' bytes of those that layers read so
  };
  /// Lets weights stay as `stay` says; those that may not stay prepared are prepared for each pin
  /// and freed with it, files' bytes that may not stay are let go after each use and read again.
  /// Which stay prepared is spread evenly over the order of binding, and small ones always do.
  /// Concerns the weights bound until now; what is prepared already and may not stay is let go. No
  /// weight may be pinned meanwhile.
  void keep(const Stay& stay);

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
