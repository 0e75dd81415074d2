// Changes to weights that are made while they are prepared; the stored bytes stay as they are.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "device/cpu/linear.h"

namespace atelier {

/// A change that is a product: scale times up [rows, r] times down [r, columns], both contiguous on
/// the CPU in fp32, fp16 or bf16.
struct LowRank {
  at::Tensor up, down;
  double scale = 1;
};

/// Changes joined, and which rows take which of their columns; no ranges where all take all.
struct Side : LowRank {
  std::vector<TailRange> ranges;
};

/// One change to one weight, by its model's name. Immutable: safe from any thread.
class WeightPatch {
 public:
  virtual ~WeightPatch() = default;
  /// Changes `weight`, contiguous fp32 on the CPU, in place. `strength` is 1 for the change as its
  /// maker meant it and may be negative. Patches of one weight are applied in order, each to what
  /// the ones before have left.
  virtual void apply(at::Tensor& weight, double strength) const = 0;
  /// The change at strength 1 if it is a low-rank product added to a matrix; nothing otherwise.
  /// Copies no numbers where it can do without.
  virtual std::optional<LowRank> low_rank() const { return {}; }
};

/// A patch of `rows` rows of a weight from `first_row` on, so that a change to one of several
/// joined matrices finds its place.
struct PlacedPatch {
  std::shared_ptr<const WeightPatch> patch;
  int64_t first_row = 0, rows = 0;
  double strength = 1;
  bool operator==(const PlacedPatch&) const = default;
};

/// The patches of one component by the name its model gives the weight ("x.weight", "x.bias").
using PatchTable = std::map<std::string, std::vector<PlacedPatch>, std::less<>>;

}  // namespace atelier
