// Changes to weights by the kinds of adapter there are: builders from a module's tensors.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "lora/lora_file.h"
#include "memory/patch.h"

namespace atelier {

/// A patch that knows its size, so that it can be placed and refused before anything is computed.
/// `apply` takes weights of any number of dims and looks at [rows, everything else].
class Change : public WeightPatch {
 public:
  /// 0 if any number will do.
  virtual int64_t rows() const = 0;
  /// Numbers in a row, kernels included; 0 if any number will do.
  virtual int64_t columns() const = 0;
  /// Whether a row of the result depends on that row of the weight alone.
  virtual bool by_rows() const { return true; }
  /// Memory the change holds.
  virtual Bytes bytes() const = 0;
};

using ChangePtr = std::shared_ptr<const Change>;

/// What a module does to its weight and its bias; empty where nothing.
struct ModuleChanges {
  ChangePtr weight, bias;
  /// "LoRA", "LoHa", "full difference", ...: what is done to the weight, in this order.
  std::vector<std::string_view> kinds;
};

/// The weight in the LoRA's layout: `columns` numbers in a row, `kernel` of them for each input
/// channel (1 for matrices).
struct WeightForm {
  int64_t columns = 1, kernel = 1;
  bool convolution = false;
};

/// Builds the changes of one module for a weight of this form. Throws `malformed` naming the tensor
/// for shapes that contradict one another and `unsupported` for a rank nothing should have.
ModuleChanges make_changes(const LoraModule& module, const WeightForm& form);

// ---- the kinds; sources and formulas stand in their files

/// Of `down` [r, ...] and `up` [rows, r], perhaps with a core `mid` between.
ChangePtr make_lora(const LoraModule& module);
ChangePtr make_loha(const LoraModule& module);
ChangePtr make_lokr(const LoraModule& module);
ChangePtr make_glora(const LoraModule& module, const WeightForm& form);
/// OFT, or BOFT where the blocks have four dims.
ChangePtr make_oft(const LoraModule& module);
/// OFT of LyCORIS before 2.1: the blocks are what turns the rows.
ChangePtr make_first_oft(const LoraModule& module);
/// OFT on the input, as PEFT since 0.16 and OneTrainer have it.
ChangePtr make_input_oft(const LoraModule& module, const WeightForm& form);
/// OFT as PEFT before 0.16 had it: on the input if there are factors, else on the output.
ChangePtr make_older_peft_oft(const LoraModule& module, const WeightForm& form);
/// Rows turned, in blocks, by the transposes of `turns` [n, b, b].
ChangePtr make_output_turn(at::Tensor turns);
/// `values` added, or put in the weight's place.
ChangePtr make_difference(at::Tensor values, double scale = 1);
ChangePtr make_replacement(at::Tensor values);
/// `inner` with the weight's magnitudes after it set to `magnitude`.
ChangePtr make_dora(ChangePtr inner, const LoraModule& module, int64_t kernel);
/// All of `parts` in turn; null if there are none. Throws `malformed` if they are for weights of
/// different sizes.
ChangePtr make_several(std::vector<ChangePtr> parts, const LoraModule& module);

// ---- changes of weights that lie in the model otherwise than in the LoRA's layout

/// Rows [first, first + count) of what `inner` does. Throws `unsupported` naming `module` if these
/// depend on the other rows.
ChangePtr rows_of(ChangePtr inner, int64_t first, int64_t count, std::string_view module);
/// `inner` on the transpose of a matrix [rows, columns].
ChangePtr transposed(ChangePtr inner, int64_t rows, int64_t columns);
/// `inner` on the weight with its second half of rows first.
ChangePtr halves_exchanged(ChangePtr inner);

// ---- shared by the builders

/// A tensor as [size(0), rest], in its own dtype.
at::Tensor as_matrix(const at::Tensor& tensor);
/// down [r', in, 1...] behind a core mid [r, r', kernel...]: [r, in * kernel] fp32.
at::Tensor through_core(const LoraModule& module, LoraRole mid, LoraRole down);
/// A Tucker product: core t [p, q, kernel...], a [p, rows], b [q, in] -> [rows, in * kernel] fp32.
at::Tensor tucker(const at::Tensor& t, const at::Tensor& a, const at::Tensor& b);
/// Cayley's (I + q)(I - q)^-1 of skew-symmetric q [..., b, b].
at::Tensor cayley(const at::Tensor& q);
/// alpha / rank, or 1 without alpha.
double scale_of(const LoraModule& module, int64_t rank);
/// Throws `malformed` naming the module's tensor unless `ok`.
void require(bool ok, const LoraModule& module, LoraRole role, std::string_view expected);
Bytes bytes_of(std::initializer_list<at::Tensor> tensors);

}  // namespace atelier
