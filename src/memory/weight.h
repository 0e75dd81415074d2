// Weights as models hold them: handles that own no bytes until something pins them. Read first.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/device.h"
#include "formats/tensor_source.h"
#include "memory/patch.h"

namespace atelier {

class Slots;

/// Where and in which dtype a component computes.
struct Compute {
  Device device;
  at::ScalarType dtype = at::kFloat;
  /// Weights are rounded to this dtype first, whatever the file has; unset: they are not.
  std::optional<at::ScalarType> rounded = {};
  /// Linear layers whose matrices are Q8_0 are multiplied as 8-bit integers.
  bool int8 = false;
  bool operator==(const Compute&) const = default;
};

/// What is taken from one stored tensor: all of it, or a run of its rows.
struct WeightPart {
  std::shared_ptr<const TensorSource> source;
  std::string name;
  int64_t first_row = 0, rows = 0;  // along dim 0
  bool transposed = false;  // the stored matrix is the transpose of what is wanted
};

/// A tensor a model knows by one name: its parts joined along dim 0 and seen as `shape`.
struct Operand {
  std::vector<WeightPart> parts;
  Shape shape;
  std::string name = {};  // in the model; patches find it by this
};

/// The patches of each operand, in the operands' order; empty where there are none at all.
using OperandPatches = std::vector<std::vector<PlacedPatch>>;

/// Stored operands, decoded when a form asks, patched, and rounded if the compute says so.
class Operands {
 public:
  /// With `beside`, patches are left to the layer, which asks for them by `side`. With `slots`,
  /// what is prepared from them is soon done with.
  Operands(const std::vector<Operand>& operands, const OperandPatches& patches,
           std::optional<at::ScalarType> rounded, bool beside, Slots* slots = nullptr)
      : operands_(operands), patches_(patches), rounded_(rounded), beside_(beside), slots_(slots) {}
  size_t size() const { return operands_.size(); }
  const Shape& shape(size_t i) const { return operands_[i].shape; }
  /// The dtype all parts are stored in, if they share one and a tensor can hold it as it lies in
  /// the file: fp32, bf16 or fp16; where they are rounded, the dtype they are rounded to.
  std::optional<at::ScalarType> stored_dtype() const;
  /// Operand `i` as a contiguous CPU tensor of `dtype`; may be a view of the file: not to be
  /// written to. Throws `unsupported` or `malformed`.
  at::Tensor decoded(size_t i, at::ScalarType dtype) const;
  /// All operands joined along dim 0, contiguous, on the CPU; a lone operand as by `decoded`.
  at::Tensor joined(at::ScalarType dtype) const;
  /// A lone operand as it lies in the file, if that is `dtype` and unchanged; undefined otherwise.
  at::Tensor view(at::ScalarType dtype) const;
  /// Whether `read` can stand for `joined`: no part is transposed and nothing is merged.
  bool streams() const;
  /// Rows [first, first + count) of `joined(dtype)` to `to`, with room for them; any thread. Only
  /// where `streams`, and if operands are rounded, in the dtype they are rounded to.
  void read(int64_t first, int64_t count, at::ScalarType dtype, void* to) const;
  /// Number of elements of all operands.
  int64_t elements() const;
  /// What the layer adds to the product with the joined operands [out, in]: up [out, r] times
  /// down [r, in], all low-rank patches joined along r with their strengths in `up`. Nothing if
  /// there are none or `joined` has them.
  std::optional<Side> side() const;
  /// Its ranges.
  std::vector<TailRange> side_ranges() const;
  /// The same change by change, as they are: each adds `strength` times up times down to the rows
  /// from `first_row` on.
  using SideUser = std::function<void(const LowRank& change, int64_t first_row, double strength)>;
  void each_side(const SideUser& use) const;
  /// The rank of `side`; 0 without one.
  int64_t side_rank() const;
  /// Memory for a prepared weight of so many bytes.
  at::Tensor allocate(int64_t bytes) const;

 private:
  struct SidePart {
    LowRank change;
    int64_t first_row;
    double strength;
  };
  /// All low-rank patches, by the first row they change.
  std::vector<SidePart> side_parts() const;
  bool rounds_before(at::ScalarType dtype) const { return rounded_ && rounded_ != dtype; }
  bool merges() const { return !patches_.empty() && !beside_; }
  const std::vector<Operand>& operands_;
  const OperandPatches& patches_;
  std::optional<at::ScalarType> rounded_;
  bool beside_;
  Slots* slots_;
};

/// What a kernel wants of a weight. `prepare` is a pure function of the operands' bytes and the
/// compute device and dtype, so that the same checkpoint always computes the same.
struct Form {
  std::string_view name;
  std::function<at::Tensor(const Operands& operands, const Compute& compute)> prepare;
  bool on_demand = false;  // left out of `Residency::prepare_all`: few runs need it
  bool read_as_stored = false;  // its layer goes through the stored bytes in each run instead
  /// Of forms whose layer runs low-rank patches of quantised matrices beside the stored product:
  /// makes `LowRank::down` what `Pin::down` gives; `up` is then `prepare`'s affair.
  std::function<at::Tensor(const at::Tensor& down, const Compute& compute)> prepare_down = {};
  /// Bytes of what `prepare` will give; unset: those of the joined operands in the compute dtype.
  std::function<int64_t(const Operands& operands, const Compute& compute)> size = {};
};

/// The operands joined in the compute dtype on the compute device.
Form plain_form();
/// The same in fp32 whatever the compute dtype, as norms and biases added in fp32 want it.
Form fp32_form();

/// The plain form of a matrix that `Weight::rows` is asked of: prepared only if patches need it.
Form rows_form();

/// Keeps a prepared weight in place while it lives.
class Pin {
 public:
  using Ranges = std::shared_ptr<const std::vector<TailRange>>;
  explicit Pin(at::Tensor tensor, at::Tensor down = {}, int64_t rank = 0, Ranges ranges = {})
      : tensor_(std::move(tensor)),
        down_(std::move(down)),
        rank_(rank),
        ranges_(std::move(ranges)) {}
  const at::Tensor& operator*() const { return tensor_; }
  const at::Tensor* operator->() const { return &tensor_; }
  /// The first half of the side branch, of `rank` rows; undefined and 0 without one.
  const at::Tensor& down() const { return down_; }
  int64_t rank() const { return rank_; }
  /// Which rows of the matrix take which of the `rank`; empty where all take all.
  std::span<const TailRange> ranges() const {
    return ranges_ ? std::span(*ranges_) : std::span<const TailRange>();
  }

 private:
  at::Tensor tensor_, down_;
  int64_t rank_;
  Ranges ranges_;
};

/// A weight by handle: copies share one prepared tensor, which goes when the last copy does. An
/// empty handle stands for "this layer has none".
class Weight {
 public:
  class Entry;
  Weight() = default;
  explicit Weight(std::shared_ptr<Entry> entry) : entry_(std::move(entry)) {}
  explicit operator bool() const { return entry_ != nullptr; }
  /// The prepared tensor; prepares it first if it is not. Safe from any thread.
  Pin pin() const;
  /// Rows of a lone matrix: int64 `ids` of any shape, on any device -> [..., width] in the compute
  /// dtype on the compute device, the numbers of the plain form. Where the stored numbers are not
  /// the compute dtype only these rows are decoded and nothing is kept, unless patches change the
  /// matrix. Throws as `pin`, `invalid_argument` for a row there is not. Safe from any thread.
  at::Tensor rows(const at::Tensor& ids) const;
  /// Whether all of it is stored in this encoding.
  bool stored_in(Encoding encoding) const;
  /// Whether the plain form is the stored bytes as they are.
  bool as_stored() const;
  /// The same stored bytes in another form.
  Weight as(Form form) const;
  /// Lets `use` read the operands as they are stored, if they can be streamed, and says whether
  /// they can; `Operands::side` tells it of low-rank patches of quantised matrices. Safe from any
  /// thread.
  bool with_stored(const std::function<void(const Operands& operands)>& use) const;
  const Shape& shape(size_t operand = 0) const;
  const Compute& compute() const;

 private:
  friend Weight gather(const std::vector<Weight>& weights, Form form);
  std::shared_ptr<Entry> entry_;
};

/// One weight made of several, whose operands `form` receives in order.
Weight gather(const std::vector<Weight>& weights, Form form);

}  // namespace atelier
